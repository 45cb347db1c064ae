"use strict";
// The charts of a study, its subjects' photos, and the first look of the page.

const LINES = 100; // more lines than that cannot be told apart

function legend() {
  const rows = [...new Set(data.runs.map((run) => run.row))].filter((row) => row !== null);
  const item = (shape, colour, name) => el("li", {}, svg("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" }, mark(shape, 6, 6, 4.5, { fill: colour })), name);
  if (!state.by) return byId("legend").replaceChildren(...rows.map((row) => item(look(row).shape, look(row).colour, data.rows[row].name)));
  const other = shapedBy();
  byId("legend").replaceChildren(
    ...valuesOf(state.by.key).map((v, i) => item("circle", `var(--c${1 + i})`, `${state.by.short} ${v}`)),
    ...(other ? valuesOf(other.key).map((v, i) => item(SHAPES[i % SHAPES.length], "var(--soft)", `${other.short} ${v}`)) : []));
}

// which thing that varies the colours stand for, where the settings are too many for one each
function chooseColours() {
  byId("colour-bar").hidden = keyed.length < 2;
  byId("colour-by").replaceChildren(...keyed.map((k, i) => el("option", { value: i }, k.short)));
  byId("colour-by").addEventListener("change", (event) => {
    state.by = keyed[event.target.value];
    legend();
    changed();
  });
}

function section(id, title, note, charts, style = "") {
  if (!charts.length) return byId(id).replaceChildren();
  byId(id).replaceChildren(el("h3", {}, title), note ? el("p", { class: "hint" }, note) : "", el("div", { class: `panels ${style}` }, ...charts));
}

const shownRuns = () => data.runs.map((run, i) => ({ ...run, i })).filter((run) => state.shown.has(run.i));

function drawTradeoff() {
  if (!data.tradeoff) return section("tradeoff", "", "", []);
  const { subject, prompt } = data.tradeoff, series = [];
  const point = (scores, text, run) => ({ x: scores[prompt], y: scores[subject], run,
    text: `${text}: ${header(prompt)} ${number(scores[prompt])}, ${header(subject)} ${number(scores[subject])}` });
  const has = (scores) => Number.isFinite(scores[subject]) && Number.isFinite(scores[prompt]);
  const runs = shownRuns().filter((run) => has(run.scores));
  for (const row of new Set(runs.map((run) => run.row))) {
    const points = runs.filter((run) => run.row === row).map((run) => point(run.scores, run.label, run.i));
    series.push({ name: "", ...look(row), kind: "marks", points });
  }
  if (runs.length < 2) return section("tradeoff", "", "", []);
  series.push(...means(runs, point, has));
  const real = data.rows.find((row) => row.kind === "real" && row.scores[subject]);
  const figure = chart({
    title: "Subject fidelity against prompt fidelity", note: "up and right is better; large marks are means",
    x: `${header(prompt)} →`, y: `${header(subject)} ↑`, height: 360, series: [front(runs), ...series],
    levels: real ? [{ y: real.scores[subject].value, name: real.name }] : [], choose: (run) => { state.detail = run; choose(run); },
  });
  section("tradeoff", "", "", [figure, detail()], "wide");
}

function means(runs, point, has) {
  return data.rows.flatMap((row, r) => {
    const scores = Object.fromEntries(Object.entries(row.scores).map(([v, mean]) => [v, mean.value]));
    if (row.kind === "real" || !has(scores) || runs.filter((run) => run.row === r).length < 2) return [];
    return [{ name: row.name, ...look(r), kind: "marks", style: "mean", points: [point(scores, `mean, ${row.name}`)] }];
  });
}

// the runs that no other run beats in both scores, joined
function front(runs) {
  const { subject, prompt } = data.tradeoff;
  const best = runs.map((run) => [run.scores[prompt], run.scores[subject]]).sort((a, b) => b[0] - a[0] || b[1] - a[1])
    .filter((p, i, list) => list.slice(0, i).every((q) => q[1] < p[1]));
  const stairs = best.flatMap(([x, y], i) => (i ? [[best[i - 1][0], y], [x, y]] : [[x, y]]));
  return { name: "front", colour: "var(--soft)", kind: "line", style: "front", points: stairs.map(([x, y]) => ({ x, y })) };
}

function detail() {
  const run = data.runs[state.detail ?? state.chosen[0]];
  if (!run) return el("div", { class: "detail hint" }, "Choose a mark to see its run.");
  const last = run.samples.at(-1);
  return el("div", { class: "detail" }, el("h3", {}, run.label),
    el("div", { class: "strip" }, ...(last?.pictures || []).slice(0, 8).map((p) => picture(p.picture, p.prompt))),
    el("dl", {}, ...data.columns.filter((c) => Number.isFinite(run.scores[c.variant])).flatMap((c) => {
      const [low, high] = run.intervals[c.variant] || [];
      return [el("dt", {}, `${c.header} ${c.arrow}`), el("dd", {}, number(run.scores[c.variant]), el("span", { class: "small" }, low === undefined ? "" : `  ${number(low)}–${number(high)}`))];
    }), el("dt", {}, "cost"), el("dd", {}, `${number(run.seconds, 0)} s, ${number(run.memory, 2)} GiB`)),
    run.page ? el("a", { href: encodeURI(run.page) }, "Page of this run") : null);
}

// a table per metric over two settings that are numbers
function drawMap() {
  const { x, y } = data.map, runs = shownRuns();
  if (!x) return;
  const name = (key) => data.keys.find((k) => k.key === key).short;
  const values = (key) => [...new Set(runs.map((run) => run.settings[key]))].sort((a, b) => a - b);
  const tables = data.columns.map((column) => {
    const cells = values(y).reverse().map((up) => values(x).map((across) => {
      const own = runs.filter((run) => run.settings[x] === across && run.settings[y] === up).map((run) => run.scores[column.variant]).filter(Number.isFinite);
      return own.length ? own.reduce((sum, v) => sum + v, 0) / own.length : null;
    }));
    const [low, high] = extent(cells.flat().filter((v) => v !== null), 0);
    const shade = (v) => (v === null ? "" : `background:color-mix(in srgb, var(--accent) ${Math.round(45 * (column.lower ? high - v : v - low) / (high - low || 1))}%, transparent)`);
    return el("figure", { class: "chart" }, el("figcaption", {}, `${column.header} ${column.arrow}`), el("table", { class: "map" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, `${name(y)} \\ ${name(x)}`), ...values(x).map((v) => el("th", { scope: "col", class: "num" }, v)))),
      el("tbody", {}, ...cells.map((row, i) => el("tr", {}, el("th", { scope: "row" }, values(y).reverse()[i]), ...row.map((v) => el("td", { class: "num", style: shade(v) }, number(v))))))));
  });
  section("map", `${name(y)} and ${name(x)}`, "Means of the runs that the filters leave; the stronger the colour, the better.", tables);
}

function pairedCharts(row, base, r) {
  return data.columns.filter((column) => row.differences[column.variant]).map((column) => {
    const [own, other, difference] = [row.scores, base.scores, row.differences].map((s) => s[column.variant]);
    const names = Object.keys(difference.subjects), several = names.length > 1;
    const line = (name, a, b) => ({ name, colour: look(r).colour, kind: "line",
      points: [a, b].map((y, x) => ({ x, y, text: `${name}: ${number(a)} → ${number(b)}, ${signed(b - a)}` })) });
    const series = names.map((name) => ({ ...line(name, other.subjects[name], own.subjects[name]), style: several ? "faint" : "" }));
    const mean = (s) => names.reduce((sum, name) => sum + s.subjects[name], 0) / names.length;
    if (several) series.push({ ...line("mean", mean(other), mean(own)), style: "mean" });
    return chart({ title: `${column.header} ${column.arrow}`, note: signed(difference.value), height: 210, named: [base.name, row.name], series });
  });
}

// one setting against its baseline at a time: all of them would be a page of charts
function drawPaired() {
  const compared = data.rows.map((row, r) => r).filter((r) => data.rows[r].baseline !== null && Object.keys(data.rows[r].differences).length);
  if (!compared.length) return;
  const choice = el("select", {}, ...compared.map((r) => el("option", { value: r }, data.rows[r].name)));
  const draw = () => {
    const row = data.rows[choice.value], base = data.rows[row.baseline];
    section("paired", "Each subject in both settings", `A line is a subject; the thick line is the mean. Against ${base.name}.`, pairedCharts(row, base, Number(choice.value)), "narrow");
    if (compared.length > 1) byId("paired").querySelector(".panels").before(el("div", { class: "bar" }, el("label", {}, "Setting", choice)));
  };
  choice.addEventListener("change", draw);
  draw();
}

// the mean of each setting, or of each colour, with several runs, at the steps that all of them have
function meanLines(runs, pointsOf, name) {
  const group = (row) => (state.by && row !== null ? `${state.by.short} ${data.rows[row].settings[state.by.key]}` : data.rows[row]?.name);
  const firsts = new Map(runs.map((run) => [group(run.row), run.row]));
  return [...firsts].flatMap(([told, row]) => {
    const lines = runs.filter((run) => group(run.row) === told).map((run) => new Map(pointsOf(run, name))).filter((m) => m.size);
    if (lines.length < 2 || row === null) return [];
    const steps = [...lines[0].keys()].filter((step) => lines.every((line) => line.has(step)));
    const points = steps.map((x) => [x, lines.reduce((sum, line) => sum + line.get(x), 0) / lines.length]);
    return [{ name: "mean", colour: look(row).colour, kind: "line", style: "mean",
      points: points.map(([x, y]) => ({ x, y, text: `mean, ${told}, step ${number(x, 0)}: ${number(y)}` })) }];
  });
}

// behind: draws what a run's line is the smoothed form of, where there are few
function lineCharts(names, pointsOf, spec, behind = null) {
  const runs = shownRuns().slice(0, LINES);
  return names.map((name) => {
    const series = runs.map((run) => ({ run, points: pointsOf(run, name) })).filter((s) => s.points.length)
      .map(({ run, points }) => ({ name: run.label, colour: look(run.row).colour, kind: "line",
        style: runs.length < 5 ? (behind ? "mean" : "") : state.chosen.includes(run.i) ? "" : "faint",
        points: points.map(([x, y]) => ({ x, y, run: run.i, text: `${run.label}, step ${number(x, 0)}: ${number(y)}` })) }));
    series.push(...meanLines(runs, pointsOf, name));
    if (behind && runs.length < 5) series.unshift(...runs.map((run) => behind(run, name)));
    return series.length ? chart({ ...spec(name), x: "step", series, choose: (run) => choose(run) }) : null;
  }).filter(Boolean);
}

function drawCurves() {
  const many = shownRuns().length > LINES ? `The first ${LINES} of the ${shownRuns().length} runs that the filters leave.` : "";
  section("losses", "Losses while training", many, lineCharts(["instance", "prior"], (run, name) => smoothed(run.losses[name] || []),
    (name) => ({ title: `${name} loss`, note: SMOOTH }), (run, name) => unsmoothed(run.losses[name] || [], look(run.row).colour)));
  section("curves", "Scores while training", many, lineCharts(curveVariants(data.runs),
    (run, variant) => run.curve.filter((row) => Number.isFinite(row[variant])).map((row) => [row.step, row[variant]]),
    (variant) => ({ title: header(variant) })));
}

function drawPhotos() {
  const subjects = new Map();
  for (const run of data.runs) if (!subjects.get(run.subject)?.length) subjects.set(run.subject, run.photos);
  byId("photos").replaceChildren(el("div", { class: "subject-list" }, ...[...subjects].map(([name, photos]) => el("div", {},
    el("h3", {}, name), el("div", { class: "photos" }, ...(photos.length ? photos.slice(0, 6).map((p, i) => picture(p, `photo ${i + 1} of ${name}`)) : [picture(null, `photos of ${name}`)]))))));
}

// the first subject whose runs have the most to see
function firstLook() {
  const drawn = (runs) => runs.filter((r) => data.runs[r].samples.length).length;
  const sets = [...new Set(data.runs.map((run) => run.subject))].map(ofSubject);
  return sets.reduce((best, runs) => (drawn(runs) > drawn(best) ? runs : best), sets[0] || []);
}

state.shown = new Set(data.runs.keys());
state.chosen = firstLook();
state.listeners.push(compare, showTable, drawTradeoff, drawMap, drawCurves);
chooseColours();
legend();
drawPhotos();
drawPaired();
changed();
