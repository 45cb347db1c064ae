"use strict";
// Runs side by side: a column a run, a row a prompt, and a slider through the training steps.

const LATEST = 4; // runs of a subject that are put side by side at once

function choose(run, only = false) {
  const had = state.chosen.includes(run);
  if (only) state.chosen = [run];
  else state.chosen = had ? state.chosen.filter((r) => r !== run) : [...state.chosen, run];
  changed();
}

// the runs of one subject and seed, one for each setting: the fairest pictures to compare
function ofSubject(subject) {
  if (keyed.length > 1) return ofGrid(subject);
  const rows = new Set();
  return data.runs.map((_, i) => i)
    .filter((i) => data.runs[i].subject === subject)
    .filter((i) => data.runs[i].row === null || (!rows.has(data.runs[i].row) && rows.add(data.runs[i].row)))
    .slice(0, LATEST);
}

// of a grid, a run for each pair of values of the first two things that vary, alike in the others
function ofGrid(subject) {
  const pairs = new Map();
  data.runs.forEach((run, i) => {
    if (run.subject !== subject) return;
    const pair = JSON.stringify(keyed.slice(0, 2).map((k) => run.settings[k.key]));
    pairs.set(pair, [...(pairs.get(pair) || []), i]);
  });
  return [...pairs.values()].map((runs) => runs[Math.floor(runs.length / 2)]).slice(0, LATEST);
}

const partsOf = (run) => data.runs[run].label.split(", ");
// what all runs side by side have in common is said once, beside them
const common = () => (state.chosen.length < 2 ? [] : partsOf(state.chosen[0]).filter((part) => state.chosen.every((r) => partsOf(r).includes(part))));
// a long setting may break after `_` and `=`
const breakable = (text) => text.replace(/([_=])/g, "$1\u200b");

function stepsOf(runs) {
  const labels = new Map();
  for (const r of runs) for (const s of data.runs[r].samples) labels.set(s.label, s.step ?? Infinity);
  return [...labels].sort((a, b) => a[1] - b[1]);
}

// the pictures of the last step that is not after the slider's
function samplesAt(run, step) {
  const steps = data.runs[run].samples.filter((s) => (s.step ?? Infinity) <= step);
  return steps.at(-1) || null;
}

function compare() {
  const box = byId("compare"), slider = byId("compare-step"), steps = stepsOf(state.chosen);
  slider.max = Math.max(steps.length - 1, 0);
  slider.value = Math.min(state.step ?? steps.length - 1, steps.length - 1);
  byId("compare-slider").hidden = steps.length < 2;
  const [label, step] = steps[slider.value] || ["", Infinity];
  byId("compare-label").textContent = label;
  slider.setAttribute("aria-valuetext", label);
  const at = state.chosen.map((r) => samplesAt(r, step));
  const rows = rowsOf(at);
  const grid = el("div", { class: "compare" });
  const wide = matchMedia("(min-width: 46rem)").matches;
  grid.style.gridTemplateColumns = `${wide ? "minmax(7rem, 11rem) " : ""}repeat(${Math.max(state.chosen.length, 1)}, minmax(${wide ? 11 : 9}rem, 1fr))`;
  grid.append(corner(), ...state.chosen.map(heading));
  for (const [prompt, keys] of rows) {
    grid.append(el("div", { class: "prompt" }, prompt));
    state.chosen.forEach((run, i) => grid.append(el("div", { class: "cell" }, ...keys.map((key) => cell(run, at[i], key)))));
  }
  box.replaceChildren(grid);
  byId("compare-note").textContent = noteOf(steps, rows.size);
  sync();
}

// prompt without the subject's words => keys, in the order of the first run that has them
function rowsOf(at) {
  const rows = new Map();
  for (const sample of at) {
    for (const item of sample?.pictures || []) {
      const prompt = item.key.split("\n")[0].replace("{subject}", "…").replace("{class}", "(class noun)");
      if (!rows.has(prompt)) rows.set(prompt, []);
      if (!rows.get(prompt).includes(item.key)) rows.get(prompt).push(item.key);
    }
  }
  if (new Set(state.chosen.map((r) => data.runs[r].subject)).size > 1) return rows;
  const named = new Map();
  for (const [prompt, keys] of rows) {
    const item = at.flatMap((s) => s?.pictures || []).find((p) => keys.includes(p.key));
    named.set(named.has(item.prompt) ? prompt : item.prompt, keys);
  }
  return named;
}

// the photos that the runs were trained on, if all were trained on the same subject
function corner() {
  const subjects = new Set(state.chosen.map((r) => data.runs[r].subject));
  const shared = common().filter((part) => !subjects.has(part));
  const all = shared.length ? el("span", { class: "small" }, `all: ${breakable(shared.join(", "))}`) : null;
  if (subjects.size !== 1) return el("div", { class: "corner" }, all);
  const [name] = subjects, photos = data.runs[state.chosen[0]].photos;
  return el("div", { class: "corner" }, all, el("span", { class: "small" }, `photos of ${name}`),
    el("div", { class: "photos" }, ...photos.slice(0, 6).map((p, i) => picture(p, `photo ${i + 1} of ${name}`))));
}

function heading(run) {
  const view = data.runs[run];
  const scores = data.columns.slice(0, 5).filter((c) => view.scores[c.variant] !== undefined)
    .map((c) => el("span", {}, `${c.header}\u00a0${number(view.scores[c.variant], 2)}`));
  const own = partsOf(run).filter((part) => !common().includes(part)), parts = own.length ? own : [view.label];
  const head = el("div", { class: "head" }, ...parts.map((part) => el("span", {}, breakable(part))), el("span", { class: "small" }, ...(scores.length ? scores : ["not scored"])),
    el("button", { type: "button", "aria-label": `Remove ${view.label}`, onclick: () => choose(run) }, "×"));
  head.style.setProperty("--run", look(view.row).colour);
  return head;
}

function cell(run, sample, key) {
  const item = sample?.pictures.find((p) => p.key === key);
  if (!item || item.picture === null) return picture(null, item?.prompt || "not drawn by this run");
  const button = el("button", { type: "button", class: "pic", title: `seed ${item.seed}` }, picture(item.picture, item.prompt));
  button.addEventListener("click", () => enlarge(key));
  return button;
}

function noteOf(steps, rows) {
  if (!state.chosen.length) return "Choose runs to see them side by side.";
  if (!rows) return "These runs have no sample pictures.";
  return steps.length < 2
    ? "Only final samples were drawn. With samples.every_n_steps=N a slider shows the training steps."
    : "A run that was not drawn at a step is shown at its last one before.";
}

function enlarge(key) {
  const dialog = byId("large"), step = (stepsOf(state.chosen)[byId("compare-step").value] || ["", Infinity])[1];
  const shown = state.chosen.map((run) => [run, samplesAt(run, step)]);
  const first = shown.flatMap(([, s]) => s?.pictures || []).find((p) => p.key === key);
  const figures = shown.map(([run, sample]) => {
    const item = sample?.pictures.find((p) => p.key === key);
    return el("figure", {}, picture(item?.picture, item?.prompt || "not drawn", false),
      el("figcaption", {}, data.runs[run].label, sample ? `, step ${sample.label}` : ""));
  });
  const close = el("button", { type: "button", onclick: () => dialog.close() }, "Close");
  dialog.replaceChildren(el("div", { class: "top" }, el("p", {}, first.prompt, el("span", { class: "small" }, `  seed ${first.seed}`)), close),
    el("div", { class: "pair", style: `--count:${figures.length}` }, ...figures));
  dialog.showModal();
}

function sync() {
  const subjects = [...new Set(data.runs.map((r) => r.subject))];
  const now = new Set(state.chosen.map((r) => data.runs[r].subject));
  byId("compare-subject").replaceChildren(el("option", { value: "" }, now.size > 1 ? "several" : "choose"),
    ...subjects.map((s) => el("option", { value: s, selected: now.size === 1 && now.has(s) }, s)));
  const left = data.runs.map((_, i) => i).filter((i) => state.shown.has(i) && !state.chosen.includes(i));
  byId("compare-add").replaceChildren(el("option", { value: "" }, "choose"),
    ...left.map((i) => el("option", { value: i }, data.runs[i].label)));
}

byId("compare-subject").addEventListener("change", (event) => {
  if (event.target.value) { state.chosen = ofSubject(event.target.value); changed(); }
});
byId("compare-add").addEventListener("change", (event) => {
  if (event.target.value !== "") choose(Number(event.target.value));
});
byId("compare-step").addEventListener("input", (event) => { state.step = Number(event.target.value); compare(); });
matchMedia("(min-width: 46rem)").addEventListener("change", compare);
