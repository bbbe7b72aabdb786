// A word that is pointed at, focused or pressed lights up the regions it attends to, in its own panel.
for (const panel of document.querySelectorAll(".panel")) {
  const regions = new Map([...panel.querySelectorAll(".region")].map((g) => [g.dataset.region, g]));
  const words = panel.querySelectorAll(".word");
  let held = null;
  const show = (word) => {
    panel.classList.toggle("lit", word !== null);
    for (const region of regions.values()) {
      region.classList.remove("on");
      region.querySelector("tspan").textContent = "";
    }
    if (word === null || word.dataset.regions === "") return;
    const pairs = word.dataset.regions.split(" ").map((pair) => pair.split(":"));
    const most = Math.max(...pairs.map(([, weight]) => Number(weight)));
    for (const [index, weight] of pairs) {
      const region = regions.get(index);
      if (!region || Number(weight) < most / 4) continue;
      region.classList.add("on");
      region.style.setProperty("--w", (Number(weight) / most).toFixed(2));
      region.querySelector("tspan").textContent = ", " + Math.round(100 * Number(weight)) + " %";
    }
  };
  for (const word of words) {
    word.addEventListener("mouseenter", () => show(word));
    word.addEventListener("mouseleave", () => show(held));
    word.addEventListener("focus", () => show(word));
    word.addEventListener("blur", () => show(held));
    word.addEventListener("click", () => {
      held = held === word ? null : word;
      for (const other of words) other.setAttribute("aria-pressed", String(other === held));
      show(held);
    });
  }
}
