// The page: what is shown, and what happens when something is typed, chosen or pointed at.

import * as ask from "./ask.js";
import * as draw from "./draw.js";
import { element, markPinned, score, sentence } from "./words.js";

const FOUND = 12; // pictures found, and captions
const at = (id) => document.getElementById(id);
const stage = at("stage");

const now = {
  query: "", // the sentence that the hits answer; empty while a sample is shown
  hits: [], // {image, score, explanation, svg}
  image: null, // the one on the stage
  why: new Map(), // explanation of each sentence shown for it
  pointed: null, // {text, word} under the pointer or the focus
  pinned: null, // {text, word} clicked
  relation: null, // of the image, pointed at
};
const running = {}; // an AbortController for each kind of work: a newer one replaces an older one

/** Do `work(signal)`; say in `state` that it runs, and what went wrong. A newer work of this kind ends it. */
async function doing(kind, state, words, work) {
  running[kind]?.abort();
  const { signal } = (running[kind] = new AbortController());
  say(state, words, "busy");
  try {
    await work(signal);
  } catch (error) {
    if (signal.aborted) return;
    say(state, error instanceof ask.Refused ? error.message : `This page failed: ${error.message}`, "fault");
  } finally {
    if (!signal.aborted) state.classList.remove("busy");
  }
}

function say(state, words, kind = "") {
  state.className = `state ${kind}`;
  state.textContent = words;
}

// ---- words and regions

const point = {
  enter: (text, word) => light({ pointed: { text, word } }),
  leave: () => light({ pointed: null }),
  pin: (text, word) => {
    const again = now.pinned?.text === text && now.pinned.word === word;
    light({ pinned: again ? null : { text, word }, pointed: null });
    markPinned(now.pinned);
  },
};

function light(change) {
  Object.assign(now, change);
  const lit = now.pointed ?? now.pinned;
  for (const hit of now.hits) {
    const own = lit && lit.text === now.query ? hit.explanation : null;
    const bare = !hit.image.picture; // its boxes are all there is to see
    draw.overlay(hit.svg, hit.image, { weights: own ? own.weights[lit.word] : null, boxes: bare, names: bare && !own });
  }
  drawStage();
}

function drawStage() {
  if (!now.image) return;
  const lit = now.pointed ?? now.pinned;
  const why = lit && now.why.get(lit.text);
  const weights = why ? why.weights[lit.word] : null;
  const look = { weights, boxes: at("show-boxes").checked, arrows: at("show-arrows").checked, names: true };
  draw.overlay(stage, now.image, { ...look, names: look.boxes || Boolean(weights), relation: now.relation });
  at("looks").textContent = why ? looks(why, lit.word) : "Point at a word: what it looked at lights up.";
}

function looks({ words, weights }, word) {
  const first = draw
    .mostLooked(weights[word])
    .map(({ region, weight }) => `${draw.nameOf(now.image, region)} (${Math.round(100 * weight)} %)`);
  const name = word === words.length - 1 ? "The start and end of the sentence look" : `“${words[word]}” looks`;
  return `${name} at ${first.join(", ")}.`;
}

// ---- pictures found

function search(text) {
  const state = at("search-state");
  if (!text) {
    at("query").focus();
    return say(state, "Type a sentence first.", "fault");
  }
  return doing("search", state, "Searching…", async (signal) => {
    const found = await ask.findImages(text, FOUND, signal);
    const pairs = found.hits.map(({ id }) => ({ id, text }));
    const [images, why] = await Promise.all([
      Promise.all(pairs.map(({ id }) => ask.image(id, signal))),
      ask.explain(pairs, signal),
    ]);
    now.query = text;
    showHits(found.hits.map((hit, i) => ({ image: images[i], score: hit.score, explanation: why[i] })));
    const all = found.reranked === found.size;
    const how = all ? `all ${found.size} compared` : `${found.reranked} of ${found.size} compared in full`;
    say(state, found.hits.length ? `Best first; ${how}. ${found.note}` : "Nothing was found.");
    at("sentence").replaceChildren(...(why.length ? [sentence(text, why[0], point, false)] : []));
    if (images.length) await pick(images[0].id);
  });
}

function showHits(hits) {
  Object.assign(now, { hits, pointed: null, pinned: null });
  at("hits").replaceChildren(...hits.map(tile));
  for (const { svg, image } of hits) draw.show(svg, image);
  light({});
}

function tile(hit, place) {
  const { image } = hit;
  hit.svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  hit.svg.setAttribute("role", "img");
  const words = hit.score === undefined ? image.id : `${place + 1}. score ${score(hit.score)}`;
  const button = element("button", { type: "button", class: "tile" }, hit.svg, element("span", {}, words));
  button.dataset.id = image.id;
  button.addEventListener("click", () => {
    pick(image.id);
    if (matchMedia("(max-width: 899px)").matches) at("picked").scrollIntoView();
  });
  return element("li", {}, button);
}

// ---- the picture chosen

function pick(id) {
  return doing("pick", at("looks"), "Loading the picture…", async (signal) => {
    const image = await ask.image(id, signal);
    const text = now.query;
    let own = now.hits.find((hit) => hit.image.id === id)?.explanation;
    if (text && !own) [own] = await ask.explain([{ id, text }], signal);
    running.rank?.abort();
    Object.assign(now, { image, why: new Map(own && [[text, own]]), relation: null });
    for (const each of document.querySelectorAll(".tile")) each.setAttribute("aria-pressed", String(each.dataset.id === id));
    at("picked-title").textContent = `Picture ${id}`;
    at("ranked").replaceChildren();
    say(at("rank-state"), "");
    draw.show(stage, image);
    showRelations(image);
    at("why").replaceChildren(own ? sentence(text, own, point) : "Find pictures by a sentence to see this.");
    markPinned(now.pinned);
    drawStage();
    const place = new URLSearchParams(text ? { q: text, id } : { id });
    history.replaceState(null, "", `#${place}`);
  });
}

function showRelations(image) {
  const drawn = draw.drawn(image);
  const items = drawn.map((relation) => {
    const button = element("button", { type: "button", class: "relation" }, draw.relationText(image, relation));
    const change = (one) => () => {
      now.relation = one;
      drawStage();
    };
    for (const event of ["pointerenter", "focus"]) button.addEventListener(event, change(relation));
    for (const event of ["pointerleave", "blur"]) button.addEventListener(event, change(null));
    return element("li", {}, button);
  });
  const rest = image.relations.length - drawn.length;
  const words = drawn.length ? rest && `and ${rest} less sure` : "No relations are known of this picture.";
  at("relations").replaceChildren(...items, ...(words ? [element("li", {}, words)] : []));
}

// ---- sentences ranked

function rank(find) {
  const state = at("rank-state");
  if (!now.image) return say(state, "Choose a picture first.", "fault");
  const { id } = now.image;
  return doing("rank", state, "Ranking…", async (signal) => {
    const ranked = await find(id, signal);
    const why = await ask.explain(ranked.map(({ text }) => ({ id, text })), signal);
    const items = ranked.map(({ text, score: value }, i) => {
      now.why.set(text, why[i]);
      return element("li", {}, element("b", {}, score(value)), sentence(text, why[i], point));
    });
    at("ranked").replaceChildren(...items);
    markPinned(now.pinned);
    say(state, ranked.length ? "Best first." : "Nothing was found.");
  });
}

function rankTyped() {
  const texts = [...new Set(at("sentences").value.split("\n").map((line) => line.trim()).filter(Boolean))];
  if (texts.length) return rank((id, signal) => ask.rank(id, texts, signal));
  at("sentences").focus();
  return say(at("rank-state"), "Type a sentence, or several, one per line.", "fault");
}

// ---- the start

function placeholders() {
  const svg = () => document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const empty = () => element("li", {}, element("div", { class: "tile empty" }, svg(), element("span", {}, "\u00a0")));
  at("hits").replaceChildren(...Array.from({ length: FOUND }, empty));
}

function start() {
  placeholders();
  document.querySelector("main").hidden = false; // not before it has its size
  return doing("start", at("search-state"), "Loading…", async (signal) => {
    const facts = await ask.gallery();
    const part = facts.split && `, split ${facts.split}`;
    at("facts").textContent = `${facts.name}${part}: ${facts.size.toLocaleString("en")} pictures`;
    at("model").textContent = `Scored by ${facts.model}. Everything on this page comes from this machine.`;
    at("captions").hidden = !facts.captions;
    const wanted = new URLSearchParams(location.hash.slice(1));
    if (wanted.get("q")) {
      at("query").value = wanted.get("q");
      await search(wanted.get("q"));
    } else {
      const images = await Promise.all(facts.sample.map((id) => ask.image(id, signal)));
      showHits(images.map((image) => ({ image })));
      say(at("search-state"), "A few pictures of the gallery.");
      await pick(images[0].id);
    }
    if (wanted.get("id")) await pick(wanted.get("id"));
  });
}

function submit(form, action) {
  at(form).addEventListener("submit", (event) => {
    event.preventDefault();
    action();
  });
}

submit("search", () => search(at("query").value.trim()));
submit("rank", rankTyped);
at("captions").addEventListener("click", () => rank((id, signal) => ask.findCaptions(id, FOUND, signal)));
for (const id of ["show-boxes", "show-arrows"]) at(id).addEventListener("change", drawStage);
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  light({ pinned: null, pointed: null });
  markPinned(null);
});
const resized = new ResizeObserver(() => light({}));
for (const id of ["stage", "hits"]) resized.observe(at(id));
start();
