"use strict";
const { dataset } = document.documentElement;
const setTheme = (theme) => {
  dataset.theme = theme;
  document.getElementById("theme-name").textContent = theme === "dark" ? "Light" : "Dark";
};
setTheme(dataset.theme);
document.getElementById("theme").addEventListener("click", () => {
  setTheme(dataset.theme === "dark" ? "light" : "dark");
  chosen = dataset.theme;
  try { localStorage.setItem("secateur-theme", chosen); } catch { /* as above */ }
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (system) => {
  if (!chosen) setTheme(system.matches ? "dark" : "light");
});

// Numbers sort as numbers, a dash last; a second click turns the order round.
const compare = (one, other) => {
  const [a, b] = [one, other].map(Number);
  return Number.isNaN(a) || Number.isNaN(b) ? one.localeCompare(other) : a - b;
};
const valueOf = (row, column) => row.cells[column].dataset.value.replace("-inf", "-1e308");
for (const head of document.querySelectorAll("thead th")) {
  head.querySelector("button").addEventListener("click", () => {
    const body = head.closest("table").tBodies[0];
    const order = head.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const rows = [...body.rows];
    rows.sort((one, other) => sign * compare(valueOf(one, head.cellIndex), valueOf(other, head.cellIndex)));
    body.append(...rows);
  });
}

const tip = document.getElementById("tip");
const showTip = (event) => {
  const shape = event.target.closest?.("[data-tip]");
  tip.hidden = !shape;
  if (!shape) return;
  tip.textContent = shape.dataset.tip;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, innerWidth - box.width - 4))}px`;
  tip.style.top = `${event.clientY > box.height + 20 ? event.clientY - box.height - 10 : event.clientY + 16}px`;
};
document.addEventListener("pointermove", showTip);
document.addEventListener("pointerdown", showTip);
document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((each) => each.isIntersecting)) {
    for (const link of links.values()) link.classList.remove("here");
    links.get(entry.target.id).classList.add("here");
  }
}, { rootMargin: "-20% 0px -70% 0px" });
for (const section of document.querySelectorAll("main section")) watcher.observe(section);
