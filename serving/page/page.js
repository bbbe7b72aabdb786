// State of the page, and its reactions to typing, clicking and pointing.

import * as api from "./api.js";
import * as draw from "./draw.js";
import { element, markPinned, score, sentence } from "./words.js";

const FOUND = 12; // most pictures, or captions, found
const byId = (id) => document.getElementById(id);
const stage = byId("stage");
const picked = byId("picked"); // the chosen picture and all about it
const phone = matchMedia("(max-width: 899px)"); // one column, as in style.css

const state = {
  query: "", // the sentence of the last search; empty while a sample is shown
  hits: [], // {image, score, explanation, svg}
  image: null, // the chosen image
  why: new Map(), // sentence -> explanation, for the chosen image
  pointed: null, // {text, word} under the pointer or with the focus
  pinned: null, // {text, word} clicked
  relation: null, // the relation under the pointer
};
const running = {}; // task kind -> AbortController; a new task aborts the running one of its kind

/** Run `work(signal)`; show progress and errors in the element `status`. A new task of this kind aborts the old one. */
async function runTask(kind, status, words, work) {
  running[kind]?.abort();
  const { signal } = (running[kind] = new AbortController());
  showStatus(status, words, "busy");
  try {
    await work(signal);
  } catch (error) {
    if (signal.aborted) return;
    showStatus(status, error instanceof api.RequestError ? error.message : `This page failed: ${error.message}`, "fault");
  } finally {
    if (!signal.aborted) status.classList.remove("busy");
  }
}

function showStatus(status, words, kind = "") {
  status.className = `state ${kind}`;
  status.textContent = words;
}

// ---- words and regions

const point = {
  enter: (text, word) => highlight({ pointed: { text, word } }),
  leave: () => highlight({ pointed: null }),
  pin: (text, word) => {
    const again = state.pinned?.text === text && state.pinned.word === word;
    highlight({ pinned: again ? null : { text, word }, pointed: null });
    markPinned(state.pinned);
  },
};

function highlight(change) {
  Object.assign(state, change);
  const lit = state.pointed ?? state.pinned;
  for (const hit of state.hits) {
    const own = lit && lit.text === state.query ? hit.explanation : null;
    const bare = !hit.image.picture; // without a picture the boxes are all there is to see
    draw.overlay(hit.svg, hit.image, { weights: own ? own.weights[lit.word] : null, boxes: bare, names: bare && !own });
  }
  drawStage();
}

function drawStage() {
  if (!state.image) return;
  const lit = state.pointed ?? state.pinned;
  const why = lit && state.why.get(lit.text);
  const weights = why ? why.weights[lit.word] : null;
  const look = { weights, boxes: byId("show-boxes").checked, arrows: byId("show-arrows").checked, names: true };
  draw.overlay(stage, state.image, { ...look, names: look.boxes || Boolean(weights), relation: state.relation });
  byId("looks").textContent = why ? describeAttention(why, lit.word) : "Point at a word, or tap it, to highlight the regions it attends to.";
}

function describeAttention({ words, weights }, word) {
  const first = draw
    .mostLooked(weights[word])
    .map(({ region, weight }) => `${draw.nameOf(state.image, region)} (${Math.round(100 * weight)} %)`);
  const name = word === words.length - 1 ? "The start and end of the sentence attend" : `“${words[word]}” attends`;
  return `${name} to ${first.join(", ")}.`;
}

// ---- pictures found

function search(text) {
  const status = byId("search-state");
  if (!text) {
    byId("query").focus();
    return showStatus(status, "Type a sentence first.", "fault");
  }
  return runTask("search", status, "Searching…", async (signal) => {
    const found = await api.findImages(text, FOUND, signal);
    const pairs = found.hits.map(({ id }) => ({ id, text }));
    const [images, why] = await Promise.all([
      Promise.all(pairs.map(({ id }) => api.image(id, signal))),
      api.explain(pairs, signal),
    ]);
    state.query = text;
    showHits(found.hits.map((hit, i) => ({ image: images[i], score: hit.score, explanation: why[i] })));
    const all = found.reranked === found.size;
    const how = all ? `all ${found.size} compared` : `${found.reranked} of ${found.size} compared in full`;
    showStatus(status, found.hits.length ? `Best first; ${how}. ${found.note}` : "Nothing was found.");
    byId("sentence").replaceChildren(...(why.length ? [sentence(text, why[0], point, false)] : []));
    if (images.length) await pick(images[0].id);
  });
}

function showHits(hits) {
  Object.assign(state, { hits, pointed: null, pinned: null });
  byId("hits").replaceChildren(...hits.map(tile));
  placePicked();
  for (const { svg, image } of hits) draw.show(svg, image);
  highlight({});
}

function tile(hit, place) {
  const { image } = hit;
  hit.svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  hit.svg.setAttribute("role", "img");
  const words = hit.score === undefined ? image.id : `${place + 1}. score ${score(hit.score)}`;
  const button = element("button", { type: "button", class: "tile" }, hit.svg, element("span", {}, words));
  button.dataset.id = image.id;
  button.addEventListener("click", async () => {
    await pick(image.id);
    if (phone.matches) button.scrollIntoView();
  });
  return element("li", {}, button);
}

// ---- the picture chosen

/** Put the chosen picture beside the tiles, or on a phone below the row that has its tile (the first row at first). */
function placePicked() {
  document.querySelector(".below")?.remove();
  if (!phone.matches) return byId("model").before(picked);
  const hits = byId("hits");
  const tiles = [...hits.children];
  const columns = getComputedStyle(hits).gridTemplateColumns.split(" ").length;
  const chosen = Math.max(0, tiles.findIndex((each) => each.querySelector("[aria-pressed=true]")));
  const last = Math.min(tiles.length, (Math.floor(chosen / columns) + 1) * columns) - 1;
  const below = element("li", { class: "below" }, picked);
  return last < 0 ? hits.append(below) : tiles[last].after(below);
}

function pick(id) {
  return runTask("pick", byId("looks"), "Loading the picture…", async (signal) => {
    const image = await api.image(id, signal);
    const text = state.query;
    let own = state.hits.find((hit) => hit.image.id === id)?.explanation;
    if (text && !own) [own] = await api.explain([{ id, text }], signal);
    running.rank?.abort();
    Object.assign(state, { image, why: new Map(own && [[text, own]]), relation: null });
    for (const each of document.querySelectorAll(".tile")) each.setAttribute("aria-pressed", String(each.dataset.id === id));
    placePicked();
    byId("picked-title").textContent = draw.titleOf(image);
    byId("ranked").replaceChildren();
    showStatus(byId("rank-state"), "");
    draw.show(stage, image);
    showRelations(image);
    byId("why").replaceChildren(own ? sentence(text, own, point) : `${id === api.OWN ? "Rank sentences" : "Find pictures by a sentence"} to see this.`);
    markPinned(state.pinned);
    drawStage();
    const place = new URLSearchParams({ ...(text && { q: text }), ...(id !== api.OWN && { id }) });
    history.replaceState(null, "", `#${place}`);
  });
}

/** Show a picture file that the user dropped, chose or pasted. */
function useOwn(file) {
  if (!file || byId("own").hidden) return;
  return runTask("own", byId("search-state"), "Reading your picture…", async (signal) => {
    await api.readOwn(file, signal);
    await pick(api.OWN);
    showStatus(byId("search-state"), "Your picture is read. Rank sentences for it, or find its captions.");
    byId("more").open = true;
    if (phone.matches) picked.scrollIntoView();
  });
}

function showRelations(image) {
  const drawn = draw.drawn(image);
  const items = drawn.map((relation) => {
    const button = element("button", { type: "button", class: "relation" }, draw.relationText(image, relation));
    const change = (one) => () => {
      state.relation = one;
      drawStage();
    };
    for (const event of ["pointerenter", "focus"]) button.addEventListener(event, change(relation));
    for (const event of ["pointerleave", "blur"]) button.addEventListener(event, change(null));
    return element("li", {}, button);
  });
  const rest = image.relations.length - drawn.length;
  const words = drawn.length ? rest && `and ${rest} with lower scores` : "This picture has no relations.";
  byId("relations").replaceChildren(...items, ...(words ? [element("li", {}, words)] : []));
}

// ---- sentences ranked

function rank(find) {
  const status = byId("rank-state");
  if (!state.image) return showStatus(status, "Choose a picture first.", "fault");
  const { id } = state.image;
  return runTask("rank", status, "Ranking…", async (signal) => {
    const ranked = await find(id, signal);
    const why = await api.explain(ranked.map(({ text }) => ({ id, text })), signal);
    const items = ranked.map(({ text, score: value }, i) => {
      state.why.set(text, why[i]);
      return element("li", {}, element("b", {}, score(value)), sentence(text, why[i], point));
    });
    byId("ranked").replaceChildren(...items);
    markPinned(state.pinned);
    showStatus(status, ranked.length ? "Best first." : "Nothing was found.");
  });
}

function rankTyped() {
  const texts = [...new Set(byId("sentences").value.split("\n").map((line) => line.trim()).filter(Boolean))];
  if (texts.length) return rank((id, signal) => api.rank(id, texts, signal));
  byId("sentences").focus();
  return showStatus(byId("rank-state"), "Type a sentence, or several, one per line.", "fault");
}

// ---- the start

function placeholders() {
  const svg = () => document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const empty = () => element("li", {}, element("div", { class: "tile empty" }, svg(), element("span", {}, "\u00a0")));
  byId("hits").replaceChildren(...Array.from({ length: FOUND }, empty));
  fitWindow();
}

function fitWindow() {
  byId("more").open = !phone.matches;
  placePicked();
}

function start() {
  document.querySelector("main").hidden = false;
  placeholders(); // at once, so that nothing moves when the pictures arrive
  return runTask("start", byId("search-state"), "Loading…", async (signal) => {
    const facts = await api.gallery();
    const part = facts.split && `, split ${facts.split}`;
    byId("facts").textContent = `${facts.name}${part}: ${facts.size.toLocaleString("en")} pictures`;
    byId("model").textContent = `Scored by ${facts.model}. Everything on this page comes from this machine.`;
    byId("captions").hidden = !facts.captions;
    byId("own").hidden = !facts.pictures;
    const wanted = new URLSearchParams(location.hash.slice(1));
    if (wanted.get("q")) {
      byId("query").value = wanted.get("q");
      await search(wanted.get("q"));
    } else {
      const images = await Promise.all(facts.sample.map((id) => api.image(id, signal)));
      showHits(images.map((image) => ({ image })));
      showStatus(byId("search-state"), "A few pictures of the gallery.");
      await pick(images[0].id);
    }
    if (wanted.get("id")) await pick(wanted.get("id"));
  });
}

function submit(form, action) {
  byId(form).addEventListener("submit", (event) => {
    event.preventDefault();
    action();
  });
}

submit("search", () => search(byId("query").value.trim()));
submit("rank", rankTyped);
byId("captions").addEventListener("click", () => rank((id, signal) => api.findCaptions(id, FOUND, signal)));
for (const id of ["show-boxes", "show-arrows"]) byId(id).addEventListener("change", drawStage);
byId("choose").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", () => {
  useOwn(byId("file").files[0]);
  byId("file").value = ""; // so that the same file can be chosen again
});
const holdsFile = (event) => event.dataTransfer?.types.includes("Files");
for (const [name, dropping] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  document.addEventListener(name, (event) => {
    if (!holdsFile(event)) return;
    event.preventDefault(); // else the browser leaves the page and opens the file
    document.body.classList.toggle("dropping", dropping && !byId("own").hidden);
    if (name === "drop") useOwn(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => useOwn(event.clipboardData?.files[0]));
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  highlight({ pinned: null, pointed: null });
  markPinned(null);
});
phone.addEventListener("change", fitWindow);
const resized = new ResizeObserver(() => highlight({}));
for (const id of ["stage", "hits"]) resized.observe(byId(id));
start();
