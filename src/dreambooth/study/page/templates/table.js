"use strict";
// The table of runs: sorted by a heading, filtered by text and by each setting.

const table = byId("runs-table");
const lines = [...table.tBodies[0].rows];

function valueOf(run, heading) {
  const part = data.runs[run][heading.dataset.sort];
  return heading.dataset.key === undefined ? part : part?.[heading.dataset.key];
}

// numbers by size, then texts; what is missing comes last either way
function order(a, b, sign) {
  const missing = (v) => v === null || v === undefined;
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  const [x, y] = [Number(a), Number(b)];
  const both = a !== "" && b !== "" && !Number.isNaN(x) && !Number.isNaN(y);
  return sign * (both ? x - y : String(a).localeCompare(String(b), undefined, { numeric: true }));
}

for (const heading of table.tHead.querySelectorAll("th[data-sort]")) {
  heading.querySelector("button").addEventListener("click", () => {
    const up = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const sorted = lines.map((line) => [valueOf(Number(line.dataset.run), heading), line]);
    sorted.sort((a, b) => order(a[0], b[0], up ? 1 : -1));
    table.tBodies[0].append(...sorted.map(([, line]) => line));
  });
}

const filters = [...document.querySelectorAll("select.filter")];
for (const filter of filters) {
  const values = [...new Set(data.runs.map((run) => run.settings[filter.dataset.key]))];
  values.sort((a, b) => order(a, b, 1));
  filter.append(el("option", { value: "" }, "all"), ...values.map((value) => el("option", {}, value)));
  filter.addEventListener("change", applyFilters);
}
byId("filter-text").addEventListener("input", applyFilters);

function applyFilters() {
  const words = byId("filter-text").value.toLowerCase().split(/\s+/).filter(Boolean);
  state.shown = new Set(data.runs.map((_, i) => i).filter((i) => {
    const run = data.runs[i], text = [run.label, run.name, ...Object.values(run.settings)].join(" ").toLowerCase();
    return words.every((word) => text.includes(word))
      && filters.every((f) => !f.value || run.settings[f.dataset.key] === f.value);
  }));
  changed();
}

function showTable() {
  for (const line of lines) {
    const run = Number(line.dataset.run), chosen = state.chosen.includes(run);
    line.hidden = !state.shown.has(run);
    line.classList.toggle("chosen", chosen);
    line.querySelector("input").checked = chosen;
  }
  const all = data.runs.length, left = state.shown.size;
  byId("filter-count").textContent = left === all ? "" : `${left} of ${all} runs`;
}

table.tBodies[0].addEventListener("change", (event) => choose(Number(event.target.closest("tr").dataset.run)));
