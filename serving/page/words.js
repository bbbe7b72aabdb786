// A sentence as buttons, one per word, with the contribution of each word to the score.

const MARKS = "[marks]"; // hire_model/scoring/explain.py
const number = new Intl.NumberFormat("en", { minimumFractionDigits: 3, maximumFractionDigits: 3 });
const signed = new Intl.NumberFormat("en", { signDisplay: "always", minimumFractionDigits: 3, maximumFractionDigits: 3 });

export const score = (value) => number.format(value).replace("-", "−");

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/**
 * Buttons for the words of `text`; with `contributions`, each has its share of the score and a bar below it.
 * point: an object with enter(text, word), leave(), pin(text, word)
 */
export function sentence(text, explanation, point, contributions = true) {
  const most = Math.max(...explanation.contributions.map(Math.abs)) || 1;
  const shown = explanation.words.map((word, place) => [word, place]).filter(([word]) => contributions || word !== MARKS);
  const buttons = shown.map(([word, place]) => {
    const marks = word === MARKS;
    const unknown = Boolean(explanation.unknown?.includes(word));
    const kind = marks ? "word marks" : unknown ? "word unknown" : "word";
    const button = element("button", { type: "button", class: kind, "aria-pressed": "false" });
    if (unknown) button.title = `${word}: not in the vocabulary`;
    button.append(element("span", {}, marks ? "start and end" : word));
    if (contributions) button.append(...part(explanation.contributions[place], most));
    button.dataset.word = place;
    button.dataset.text = text;
    button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && point.enter(text, place));
    button.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && point.leave());
    button.addEventListener("focus", () => button.matches(":focus-visible") && point.enter(text, place));
    button.addEventListener("blur", () => point.leave());
    button.addEventListener("click", () => point.pin(text, place));
    return button;
  });
  return element("div", { class: "words" }, ...buttons);
}

function part(value, most) {
  const bar = element("i", { class: value < 0 ? "bar against" : "bar" });
  bar.style.width = `${(100 * Math.abs(value)) / most}%`;
  return [element("small", {}, signed.format(value).replace("-", "−")), element("span", { class: "track" }, bar)];
}

/** Show which word is pinned. */
export function markPinned(pinned) {
  for (const button of document.querySelectorAll(".word")) {
    const { text, word } = button.dataset;
    button.setAttribute("aria-pressed", String(pinned?.text === text && pinned.word === Number(word)));
  }
}
