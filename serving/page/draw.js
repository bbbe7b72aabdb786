// Draws an image into an <svg>: the picture or an empty canvas, boxes, and relations as arrows.
// Coordinates are image pixels; `unit` image pixels make one screen pixel.

import { pictureAddress } from "./api.js";

const SVG = "http://www.w3.org/2000/svg";
const ARROWS = 12; // at most this many relations, highest score first
const LIT = 0.25; // a region is highlighted if its weight is at least this share of the largest
const NAMED = 3; // highlighted regions that get a label
const CANVAS = [400, 300]; // for an image of unknown size
const TEXT = 12; // font size in screen pixels
// Label positions for a predicate, best first: share of the way along its arrow, and lines below it.
const BESIDE = [0, 1, -1, 2, -2, 3, -3].flatMap((lines) => [0.5, 0.38, 0.62, 0.26, 0.74].map((share) => [share, lines]));
const ruler = document.createElement("canvas").getContext("2d");

function make(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

export const sizeOf = (image) => (image.width && image.height ? [image.width, image.height] : CANVAS);
export const nameOf = (image, region) => image.classes[region] || `region ${region + 1}`;
export const relationText = (image, { subject, predicate, object }) =>
  `${nameOf(image, subject)} ${predicate} ${nameOf(image, object)}`;

/** Relations to draw: both ends have a box; highest scores first. */
export const drawn = (image) =>
  image.relations
    .filter(({ subject, object }) => image.boxes[subject] && image.boxes[object])
    .sort((one, other) => other.score - one.score)
    .slice(0, ARROWS);

export const titleOf = (image) => image.title ?? `Picture ${image.id}`;

/** Text description of the picture, for screen readers. */
export function describe(image) {
  const names = [...new Set(image.classes.filter(Boolean))].join(", ") || `${image.boxes.length} regions`;
  const relations = drawn(image).map((relation) => relationText(image, relation)).join("; ");
  return `${titleOf(image)}: ${names}${relations && `. ${relations}`}`;
}

/** Draw the image itself into `svg`; `overlay` draws on top of it. */
export function show(svg, image) {
  const [width, height] = sizeOf(image);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("aria-label", describe(image));
  const canvas = make("rect", { class: "canvas", width, height });
  const picture = image.picture ? [make("image", { href: pictureAddress(image.id), width, height })] : [];
  svg.replaceChildren(canvas, ...picture, make("g", {}));
}

/** The regions with the largest weights: [{region, weight, share of the largest}]. */
export function mostLooked(weights) {
  const most = Math.max(...weights);
  const all = weights.map((weight, region) => ({ region, weight, share: weight / most }));
  return all.sort((one, other) => other.weight - one.weight).slice(0, NAMED);
}

/**
 * Draw boxes and arrows over the image.
 * look: {weights: one per region, or null; boxes, arrows, names: whether to draw them; relation: the highlighted one}
 */
export function overlay(svg, image, look) {
  const [width, height] = sizeOf(image);
  const unit = Math.max(width / (svg.clientWidth || width), height / (svg.clientHeight || height));
  const pixels = image.boxes.map((box) => box && box.map((value, i) => value * (i % 2 ? height : width)));
  const arrows = look.arrows && !look.weights ? grouped(drawn(image)) : [];
  const faded = ({ relations }) => Boolean(look.relation) && !relations.includes(look.relation);
  const placer = new LabelPlacer(unit, width, height);
  const layer = make("g", {});
  if (!look.weights || !image.picture) layer.append(...plainBoxes(pixels, look));
  if (look.weights) layer.append(...litBoxes(pixels, look.weights));
  const names = labels(image, pixels, look.names ? namedRegions(image, look, arrows) : [], placer);
  const arrowParts = arrows.map((one) => arrow(one, pixels, placer, faded(one)));
  layer.append(...arrowParts.map(([lines]) => lines), ...names, ...arrowParts.map(([, words]) => words)); // words on top
  svg.classList.toggle("veiled", Boolean(look.weights));
  svg.lastChild.replaceWith(layer);
}

function boxOf([x, y, right, bottom], kind) {
  return make("rect", { class: `box ${kind}`, x, y, width: right - x, height: bottom - y });
}

function litBoxes(pixels, weights) {
  const most = Math.max(...weights);
  const lit = pixels.map((box, region) => {
    const share = weights[region] / most;
    if (!box || share < LIT) return null;
    const rect = boxOf(box, "lit");
    rect.style.opacity = share ** 1.5; // emphasise the largest
    return rect;
  });
  return lit.filter(Boolean);
}

function plainBoxes(pixels, { boxes, relation }) {
  const isEnd = (region) => relation && (region === relation.subject || region === relation.object);
  const rects = pixels.map((box, region) => box && (boxes || isEnd(region)) && boxOf(box, isEnd(region) ? "end" : ""));
  return rects.filter(Boolean);
}

function namedRegions(image, { weights, relation }, arrows) {
  if (weights) return mostLooked(weights).filter(({ share }) => share >= LIT).map(({ region }) => region);
  if (relation) return [relation.subject, relation.object];
  if (image.boxes.length <= ARROWS) return image.boxes.keys();
  return new Set(arrows.flatMap(({ subject, object }) => [subject, object]));
}

/** One arrow for all relations from one region to another: [{subject, object, relations}]. */
function grouped(relations) {
  const arrows = new Map();
  for (const relation of relations) {
    const { subject, object } = relation;
    const key = `${subject} ${object}`;
    if (!arrows.has(key)) arrows.set(key, { subject, object, relations: [] });
    arrows.get(key).relations.push(relation);
  }
  return [...arrows.values()];
}

/** Places labels so that none covers another. */
class LabelPlacer {
  constructor(unit, width, height) {
    Object.assign(this, { unit, width, height, high: (TEXT + 4) * unit, taken: [] });
    this.family = getComputedStyle(document.body).fontFamily;
  }

  /** Width of a label; weight: that of its font. */
  widthOf(text, weight = 400) {
    ruler.font = `${weight} ${TEXT}px ${this.family}`;
    return (ruler.measureText(text).width + 8) * this.unit;
  }

  /** Reserve the first of `places` ([left, top]) that is free for a text of this width; undefined if none is. */
  reserve(places, wide) {
    const into = (value, most) => Math.max(0, Math.min(value, most));
    const inside = places.map(([left, top]) => [into(left, this.width - wide), into(top, this.height - this.high)]);
    const free = ([left, top]) =>
      this.taken.every(([l, t, w]) => left >= l + w || left + wide <= l || Math.abs(top - t) >= this.high);
    const found = inside.find(free);
    if (found) this.taken.push([...found, wide]);
    return found;
  }
}

/** [arrow from centre to centre, bent so that the opposite arrow stays visible; label of its predicates, or ""] */
function arrow({ subject, object, relations }, pixels, placer, faded) {
  const { unit } = placer;
  const [[x1, y1], [x2, y2]] = [subject, object].map((region) => centre(pixels[region]));
  const length = Math.hypot(x2 - x1, y2 - y1) || 1;
  const [across, down] = [(y1 - y2) / length, (x2 - x1) / length];
  const bend = Math.min(0.18 * length, 30 * unit);
  const [mx, my] = [(x1 + x2) / 2 + across * bend, (y1 + y2) / 2 + down * bend];
  const angle = Math.atan2(y2 - my, x2 - mx);
  const corner = (turn) => `${x2 - 11 * unit * Math.cos(angle + turn)},${y2 - 11 * unit * Math.sin(angle + turn)}`;
  const kind = faded ? "faded" : "";
  const group = make("g", { class: `arrow ${kind}` });
  const d = `M${x1},${y1}Q${mx},${my} ${x2},${y2}`;
  group.append(make("path", { class: "halo", d }), make("path", { class: "line", d }));
  group.append(make("circle", { cx: x1, cy: y1, r: 3.5 * unit }));
  group.append(make("polygon", { points: `${x2},${y2} ${corner(0.45)} ${corner(-0.45)}` }));
  const text = relations.map(({ predicate }) => predicate).join(", ");
  const wide = placer.widthOf(text, 600);
  const places = BESIDE.map(([t, lines]) => [
    (1 - t) ** 2 * x1 + 2 * t * (1 - t) * mx + t ** 2 * x2 - wide / 2,
    (1 - t) ** 2 * y1 + 2 * t * (1 - t) * my + t ** 2 * y2 + (lines - 0.5) * placer.high,
  ]);
  const place = placer.reserve(places, wide);
  if (!place) return [group, ""]; // a name that would cover another is left out
  const [left, top] = place;
  const at = { x: left + wide / 2, y: top + TEXT * unit };
  const size = { "font-size": TEXT * unit, "stroke-width": 4 * unit };
  return [group, make("text", { class: `predicate ${kind}`, ...at, ...size }, text)];
}

const centre = ([x, y, right, bottom]) => [(x + right) / 2, (y + bottom) / 2];

/** Names of regions, each at a corner of its box; a name without free space is left out. */
function labels(image, pixels, regions, placer) {
  const placed = [...regions].filter((region) => pixels[region]).map((region) => {
    const text = nameOf(image, region);
    const { high } = placer;
    const wide = placer.widthOf(text);
    const [x, y, right, bottom] = pixels[region];
    const corners = [[x, y - high], [right - wide, y - high], [x, bottom - high], [x, y], [right - wide, bottom - high]];
    const place = placer.reserve(corners, wide);
    return place ? label(text, ...place, wide, placer) : null;
  });
  return placed.filter(Boolean);
}

function label(text, x, y, width, { high, unit }) {
  const group = make("g", { class: "name" });
  group.append(make("rect", { x, y, width, height: high }));
  group.append(make("text", { x: x + 4 * unit, y: y + TEXT * unit, "font-size": TEXT * unit }, text));
  return group;
}
