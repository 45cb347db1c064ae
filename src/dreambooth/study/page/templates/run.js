"use strict";
// The page of one run: its samples through the training steps, its curves, and what was scored.

const run = data.runs[0];

function large(item, note) {
  const dialog = byId("large");
  dialog.replaceChildren(
    el("div", { class: "top" }, el("p", {}, item.prompt, el("span", { class: "small" }, `  seed ${item.seed}${note}`)),
      el("button", { type: "button", onclick: () => dialog.close() }, "Close")),
    el("div", { class: "pair", style: "--count:1" }, el("figure", {}, picture(item.picture, item.prompt, false))));
  dialog.showModal();
}

function tile(item, note = "", below = null) {
  const image = picture(item.picture, item.prompt);
  const shown = item.picture === null ? image
    : el("button", { type: "button", class: "pic", title: `seed ${item.seed}`, onclick: () => large(item, note) }, image);
  return below ? el("figure", {}, shown, el("figcaption", { class: "small" }, ...below)) : shown;
}

function drawSamples() {
  const slider = byId("step"), sample = run.samples[slider.value];
  if (!sample) return byId("samples").replaceChildren(el("p", { class: "note" }, "This run has no sample pictures."));
  byId("step-label").textContent = sample.label;
  slider.setAttribute("aria-valuetext", sample.label);
  const rows = Map.groupBy ? Map.groupBy(sample.pictures, (p) => p.prompt) : grouped(sample.pictures);
  byId("samples").replaceChildren(el("div", { class: "gallery rows" }, ...[...rows].map(([prompt, items]) =>
    el("div", {}, el("div", { class: "cell" }, ...items.map((item) => tile(item, `, step ${sample.label}`))), el("p", { class: "small" }, prompt)))));
}

function grouped(items) {
  const rows = new Map();
  for (const item of items) rows.set(item.prompt, [...(rows.get(item.prompt) || []), item]);
  return rows;
}

function lines(id, title, charts) {
  byId(id).replaceChildren(...(charts.length ? [el("h3", {}, title), el("div", { class: "panels" }, ...charts)] : []));
}

function line(title, points, behind = []) {
  const series = { name: title, colour: "var(--c1)", kind: "line", style: behind.length ? "mean" : "", points: points.map(([x, y]) => ({ x, y, text: `step ${number(x, 0)}: ${number(y)}` })) };
  return chart({ title, note: behind.length ? SMOOTH : "", x: "step", series: [...behind, series] });
}

function drawCharts() {
  lines("losses", "Losses", Object.entries(run.losses).map(([name, points]) => line(`${name} loss`, smoothed(points), [unsmoothed(points, "var(--c1)")])));
  const variants = curveVariants([run]);
  lines("curves", "Scores while training", variants.map((v) => line(header(v), run.curve.filter((row) => Number.isFinite(row[v])).map((row) => [row.step, row[v]]))));
  if (!Object.keys(run.losses).length && !variants.length) byId("losses").append(el("p", { class: "note" }, "This run logged no losses and no curve."));
}

function drawGallery() {
  const [set, variant] = [byId("gallery-set").value, byId("gallery-order").value];
  const column = data.columns.find((c) => c.variant === variant);
  const items = run.evaluation.filter((item) => item.set === set);
  const value = (item) => item.scores[variant] ?? (column?.lower ? Infinity : -Infinity);
  if (column) items.sort((a, b) => (column.lower ? value(a) - value(b) : value(b) - value(a)));
  byId("gallery").replaceChildren(...(items.length ? items.map((item) => tile(item, "", [item.prompt,
    column && Number.isFinite(item.scores[variant]) ? el("strong", {}, ` ${number(item.scores[variant])}`) : ""]))
    : [el("p", { class: "note" }, "This run has no scored pictures.")]));
}

const sets = { subject: "the subject", class: "the class" };
byId("gallery-set").append(...Object.entries(sets).filter(([s]) => run.evaluation.some((i) => i.set === s)).map(([s, name]) => el("option", { value: s }, name)));
byId("gallery-order").append(el("option", { value: "" }, "prompt"),
  ...data.columns.filter((c) => run.evaluation.some((i) => c.variant in i.scores)).map((c) => el("option", { value: c.variant }, `${c.header}, best first`)));
byId("gallery-set").addEventListener("change", drawGallery);
byId("gallery-order").addEventListener("change", drawGallery);
byId("photos").append(el("div", { class: "photos" }, ...run.photos.map((p, i) => picture(p, `photo ${i + 1} of ${run.subject}`))));
byId("step").max = Math.max(run.samples.length - 1, 0);
byId("step").value = byId("step").max;
byId("step-slider").hidden = run.samples.length < 2;
byId("step").addEventListener("input", drawSamples);
drawSamples();
drawCharts();
drawGallery();
