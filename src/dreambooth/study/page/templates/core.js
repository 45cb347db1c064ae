"use strict";
// What the other scripts share: the data, elements, formats, and which runs are shown and compared.

const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const SHAPES = ["circle", "square", "diamond", "triangle"];

const state = {
  chosen: [],      // numbers of the runs that are side by side
  shown: null,     // the set of the runs that the filters leave
  listeners: [],
};

function changed() {
  for (const listener of state.listeners) listener();
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// text is always set as text, never as markup: a prompt with tags in it is shown, not run
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const byId = (id) => document.getElementById(id);

function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const text = size >= 1000 ? value.toFixed(0) : size && size < 1e-3 ? value.toPrecision(2) : value.toFixed(digits);
  return text.replace("-", "−");
}

const header = (variant) => data.columns.find((c) => c.variant === variant)?.header || variant.split(".")[0];

// the variants of some curves, in the order of the columns
function curveVariants(runs) {
  const place = (variant) => data.columns.findIndex((c) => c.variant === variant) >>> 0; // -1: last
  return [...new Set(runs.flatMap((run) => run.curve.flatMap(Object.keys)))].filter((v) => v !== "step" && v !== "harmonic_mean")
    .sort((a, b) => place(a) - place(b));
}

const signed = (value) => (value > 0 ? "+" : "") + value.toFixed(3).replace("-", "−");

function picture(id, prompt, lazy = true) {
  const source = id === null || id === undefined ? null : data.pictures[id];
  if (!source) return el("span", { class: "missing", role: "img", "aria-label": `missing: ${prompt}` }, "missing");
  const image = el("img", { src: source, alt: prompt, loading: lazy && data.beside ? "lazy" : null, decoding: "async" });
  image.addEventListener("load", () => image.classList.toggle("tiny", image.naturalWidth <= 128));
  image.addEventListener("error", () => {
    image.replaceWith(el("span", { class: "missing", role: "img", "aria-label": `missing: ${prompt}` }, "missing"));
  });
  return image;
}

// grey is a baseline's, or that of runs in no row; each other setting has a colour and a shape, or,
// where they are many, the colour of its value of one thing that varies and the shape of another's
const baselines = new Set((data.rows || []).map((row) => row.baseline).filter((b) => b !== null));
const coloured = (data.rows || []).map((_, i) => i).filter((i) => !baselines.has(i) && data.rows[i].kind !== "real");
const FEW = 8, COLOURS = 7;
const valuesOf = (key) => [...new Set(coloured.map((r) => data.rows[r].settings[key]))];
const keyed = coloured.length > FEW
  ? data.keys.filter(({ key }) => coloured.every((r) => key in data.rows[r].settings) && valuesOf(key).length > 1 && valuesOf(key).length <= COLOURS)
  : [];
state.by = keyed[0] || null;
const shapedBy = () => keyed.find((k) => k !== state.by);

function look(row) {
  const place = coloured.indexOf(row);
  if (state.by && place >= 0) {
    const at = (k) => valuesOf(k.key).indexOf(data.rows[row].settings[k.key]), other = shapedBy();
    return { colour: `var(--c${1 + at(state.by)})`, shape: SHAPES[other ? at(other) % SHAPES.length : 0] };
  }
  if (place < 0) return { colour: "var(--c0)", shape: "circle" };
  const shift = baselines.size ? 1 : 0;
  return { colour: `var(--c${1 + (place % 7)})`, shape: SHAPES[(place + shift) % SHAPES.length] };
}

function mark(shape, x, y, r, attributes) {
  if (shape === "square") return svg("rect", { x: x - r * 0.9, y: y - r * 0.9, width: r * 1.8, height: r * 1.8, ...attributes });
  if (shape === "circle") return svg("circle", { cx: x, cy: y, r, ...attributes });
  const points = shape === "diamond"
    ? [[0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]]
    : [[0, -1.25], [1.15, 0.85], [-1.15, 0.85]];
  return svg("polygon", { points: points.map(([a, b]) => `${x + a * r},${y + b * r}`).join(" "), ...attributes });
}

for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const text = button.previousElementSibling.textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(button.previousElementSibling);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}
