// Highlight the regions that a word attends to, in the same panel, while the word is hovered, focused or pressed.
for (const panel of document.querySelectorAll(".panel")) {
  const regions = new Map([...panel.querySelectorAll(".region")].map((g) => [g.dataset.region, g]));
  const words = panel.querySelectorAll(".word");
  let pressed = null;
  const show = (word) => {
    panel.classList.toggle("lit", word !== null);
    for (const region of regions.values()) {
      region.classList.remove("on");
      region.querySelector("tspan").textContent = "";
    }
    if (word === null || word.dataset.regions === "") return;
    const pairs = word.dataset.regions.split(" ").map((pair) => pair.split(":"));
    const max = Math.max(...pairs.map(([, weight]) => Number(weight)));
    for (const [index, weight] of pairs) {
      const region = regions.get(index);
      if (!region || Number(weight) < max / 4) continue;
      region.classList.add("on");
      region.style.setProperty("--w", (Number(weight) / max).toFixed(2));
      region.querySelector("tspan").textContent = ", " + Math.round(100 * Number(weight)) + " %";
    }
  };
  for (const word of words) {
    word.addEventListener("mouseenter", () => show(word));
    word.addEventListener("mouseleave", () => show(pressed));
    word.addEventListener("focus", () => show(word));
    word.addEventListener("blur", () => show(pressed));
    word.addEventListener("click", () => {
      pressed = pressed === word ? null : word;
      for (const other of words) other.setAttribute("aria-pressed", String(other === pressed));
      show(pressed);
    });
  }
}
