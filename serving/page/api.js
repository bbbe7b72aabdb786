// Requests of the page to `hire demo`. Addresses are relative: the page's own address contains the token.

const EXPLAINED = 16; // most pairs in one explanation request (Limits in hire_model/service/parsing.py)
const known = new Map(); // image facts by id
const LARGEST = 10e6; // bytes of a picture (Limits in hire_model/service/parsing.py)
let own = null; // the regions of the user's own picture, and its address

/** The id of the user's own picture. */
export const OWN = "your own picture";

/** A failed request; the message is for the user. */
export class RequestError extends Error {}

async function ask(address, options) {
  let response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError("The server does not answer. Is “hire demo” still running?");
  }
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return answer;
  const detail = answer?.message ?? answer?.detail;
  throw new RequestError(typeof detail === "string" ? `Refused: ${detail}` : `The server failed (${response.status}).`);
}

const post = (address, request, signal) =>
  ask(address, { method: "POST", body: JSON.stringify(request), signal });
const predict = (request, signal) => post("predictions/hire", request, signal);
const reference = (id) => (id === OWN ? own.regions : { gallery: "gallery", id });

export const gallery = () => ask("gallery");
export const pictureAddress = (id) => (id === OWN ? own.address : `picture?id=${encodeURIComponent(id)}`);

/** Size, boxes, classes and relations of an image. */
export async function image(id, signal) {
  if (!known.has(id)) {
    const found = await ask(`image?id=${encodeURIComponent(id)}`, { signal });
    if (found.picture && !(found.width && found.height)) Object.assign(found, await sizeOf(id));
    known.set(id, found);
  }
  return known.get(id);
}

/** Read a picture file of the user. Afterwards its id is OWN. */
export async function readOwn(file, signal) {
  if (file.size > LARGEST) throw new RequestError(`“${file.name}” has more than ${LARGEST / 1e6} MB.`);
  const reader = new FileReader();
  const loaded = new Promise((done, fail) => {
    reader.onload = () => done(reader.result);
    reader.onerror = () => fail(new RequestError(`“${file.name}” cannot be read.`));
  });
  reader.readAsDataURL(file);
  const address = await loaded;
  const { image: facts, regions } = await ask("read", { method: "POST", body: file, signal });
  own = { regions, address };
  known.set(OWN, { ...facts, id: OWN, title: `Your picture ${file.name}` });
}

async function sizeOf(id) {
  const picture = new Image();
  picture.src = pictureAddress(id);
  await picture.decode().catch(() => null);
  return { width: picture.naturalWidth, height: picture.naturalHeight };
}

/** Best images for the sentence: {hits: [{id, score, place}], reranked, note}, size of the gallery. */
export async function findImages(text, count, signal) {
  const answer = await predict({ gallery: "gallery", texts: [text], top_k: count }, signal);
  return { ...answer.results[0], size: answer.size };
}

/** Best captions of the gallery for the image: [{text, score}]. */
export async function findCaptions(id, count, signal) {
  const answer = await predict({ gallery: "gallery", images: [reference(id)], top_k: count }, signal);
  return answer.results[0].hits.map((hit) => ({ text: hit.id, score: hit.score }));
}

/** The sentences ranked, best first: [{text, score}]. */
export async function rank(id, texts, signal) {
  const request = { images: [reference(id)], texts, top_k: texts.length, rank: "texts" };
  const answer = await predict(request, signal);
  return answer.results[0].map((hit) => ({ text: texts[hit.index], score: hit.score }));
}

/** For each pair {id, text}: {words, weights[word][region], contributions, boxes, score}. */
export async function explain(pairs, signal) {
  const explanations = [];
  for (let start = 0; start < pairs.length; start += EXPLAINED) {
    const some = pairs.slice(start, start + EXPLAINED).map(({ id, text }) => ({ image: reference(id), text }));
    explanations.push(...(await post("explanations/hire", { pairs: some }, signal)).explanations);
  }
  return explanations;
}
