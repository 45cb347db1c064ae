"use strict";
// A small chart: lines or marks over two axes, with values by pointer, by touch and by arrow keys.

const MARGIN = { left: 44, right: 10, top: 20, bottom: 34 };

// about `count` values from low to high, at round distances; whole: at whole numbers
function ticks(low, high, count, whole = false) {
  const rough = Math.max((high - low) / count || 1, whole ? 1 : 0);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999 && (!whole || Number.isInteger(s)));
  const list = [];
  for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-9; t += step) list.push(t);
  return { list, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9) + (String(step / power).startsWith("2.5") ? 1 : 0)) };
}

// points [x, y], each averaged with its neighbours, a twentieth of the line on either side
function smoothed(points) {
  const half = Math.floor(points.length / 20);
  return points.map(([x], i) => {
    const near = points.slice(Math.max(0, i - half), i + half + 1);
    return [x, near.reduce((sum, p) => sum + p[1], 0) / near.length];
  });
}

const SMOOTH = "smoothed over a tenth of the line";

// the points before smoothing, thin and silent behind their line
const unsmoothed = (points, colour) => ({ name: "", colour, kind: "line", style: "faint", points: points.map(([x, y]) => ({ x, y })) });

function extent(values, pad) {
  let low = Infinity, high = -Infinity;
  for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
  if (low > high) [low, high] = [0, 1];
  const room = (high - low || Math.abs(high) || 1) * pad;
  return [low - room, high + room];
}

/* Draw a chart; return its figure.
   spec: title, note, x, y (axis names), height, named (names instead of ticks on the x axis)
   spec.series: list of {name, colour, kind: "line" | "marks", shape, points: [{x, y, text, run}], style}
   spec.levels: list of {y, name}: horizontal lines; spec.choose(run): a mark was chosen */
function chart(spec) {
  const figure = el("figure", { class: "chart" },
    el("figcaption", {}, spec.title, spec.note ? el("span", { class: "small" }, ` ${spec.note}`) : null));
  const tip = el("div", { class: "tip", hidden: true, role: "status" });
  const draw = (width) => {
    figure.querySelector("svg")?.remove();
    figure.append(drawn(spec, Math.max(width, 140), tip));
    figure.append(tip);
    tip.hidden = true;
  };
  let last = 0;
  new ResizeObserver(([entry]) => {
    const width = Math.round(entry.contentRect.width);
    if (width && Math.abs(width - last) > 1) draw(last = width);
  }).observe(figure);
  return figure;
}

function drawn(spec, width, tip) {
  const names = (spec.named || []).map((name) => name.split(", "));
  const bottom = Math.max(MARGIN.bottom, 10 + 13 * Math.max(...names.map((lines) => lines.length), 0));
  const height = (spec.height || 250) + bottom - MARGIN.bottom;
  const all = spec.series.flatMap((series) => series.points);
  const levels = spec.levels || [];
  const [x0, x1] = spec.named ? [-0.35, spec.named.length - 0.65] : extent(all.map((p) => p.x), spec.pad ?? 0.03);
  const [y0, y1] = extent([...all.map((p) => p.y), ...levels.map((l) => l.y)], 0.07);
  const px = (x) => MARGIN.left + ((x - x0) / (x1 - x0)) * (width - MARGIN.left - MARGIN.right);
  const py = (y) => height - bottom - ((y - y0) / (y1 - y0)) * (height - MARGIN.top - bottom);
  const root = svg("svg", {
    viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "group", "aria-roledescription": "chart",
    "aria-label": `${spec.title}. ${spec.series.length} series. Arrow keys read the values${spec.choose ? ", Enter chooses a run" : ""}.`,
  });
  axes(root, spec, { width, height, bottom: height - bottom, names, x0, x1, y0, y1, px, py });
  for (const level of levels) {
    root.append(svg("line", { class: "front", x1: MARGIN.left, x2: width - MARGIN.right, y1: py(level.y), y2: py(level.y) }),
      svg("text", { x: MARGIN.left, y: py(level.y) - 4 }, level.name));
  }
  const items = [];
  spec.series.forEach((series, s) => {
    const style = `--run:${series.colour}`;
    if (series.kind === "line") {
      const path = series.points.map((p, i) => `${i ? "L" : "M"}${px(p.x).toFixed(1)} ${py(p.y).toFixed(1)}`).join("");
      const line = svg("path", { class: `line ${series.style || ""}`, d: path, style });
      root.append(line);
      if (series.points.length === 1) root.append(mark("circle", px(series.points[0].x), py(series.points[0].y), 3, { class: "mark", style }));
      series.points.filter((p) => p.text).forEach((p) => items.push({ ...p, s, line, name: series.name, cx: px(p.x), cy: py(p.y) }));
    } else {
      for (const p of series.points) {
        const chosen = state.chosen.includes(p.run) ? "chosen" : "";
        root.append(mark(series.shape || "circle", px(p.x), py(p.y), series.style === "mean" ? 6.5 : 4.5,
          { class: `mark ${series.style || ""} ${chosen}`, style }));
        items.push({ ...p, s, name: series.name, cx: px(p.x), cy: py(p.y) });
      }
    }
  });
  explore(root, items, tip, spec, width, height);
  return root;
}

function axes(root, spec, a) {
  let y, count = Math.max(3, Math.round(a.height / 65));
  do y = ticks(a.y0, a.y1, count++); while (y.list.length < 2 && count < 20);
  for (const t of y.list) {
    root.append(svg("line", { class: "grid", x1: MARGIN.left, x2: a.width - MARGIN.right, y1: a.py(t), y2: a.py(t) }),
      svg("text", { x: MARGIN.left - 7, y: a.py(t) + 4, "text-anchor": "end" }, t.toFixed(y.digits).replace("-", "−")));
  }
  const bottom = a.bottom;
  if (spec.named) {
    const room = Math.floor((a.width - MARGIN.left - MARGIN.right) / a.names.length / 6); // letters in a name's part of the axis
    const cut = (text) => (text.length > room ? `${text.slice(0, room - 1)}…` : text);
    a.names.forEach((lines, i) => lines.forEach((text, j) => root.append(
      svg("text", { x: a.px(i), y: bottom + 16 + 13 * j, "text-anchor": "middle" }, cut(text)))));
  } else {
    const x = ticks(a.x0, a.x1, Math.max(2, Math.floor(a.width / 90)), spec.x === "step");
    for (const t of x.list) {
      root.append(svg("text", { x: a.px(t), y: bottom + 15, "text-anchor": "middle" }, t.toFixed(x.digits).replace("-", "−")));
    }
    root.append(svg("text", { x: a.width - MARGIN.right, y: bottom + 30, "text-anchor": "end" }, spec.x || ""));
  }
  if (spec.y) root.append(svg("text", { x: 0, y: 10 }, spec.y));
}

function explore(root, items, tip, spec, width, height) {
  if (!items.length) return;
  const cursor = svg("circle", { class: "cursor", r: 6, visibility: "hidden" });
  root.append(cursor);
  let at = -1;
  const show = (i) => {
    const item = items[i];
    items[at]?.line?.classList.remove("hot");
    at = i;
    item.line?.classList.add("hot");
    fill(cursor, { cx: item.cx, cy: item.cy, visibility: "visible" }, []);
    tip.textContent = item.text;
    tip.hidden = false;
    const scale = root.clientWidth / width;
    const left = Math.min(Math.max(item.cx * scale + 12, 0), Math.max(0, root.clientWidth - tip.offsetWidth));
    tip.style.left = `${left}px`;
    const above = root.getBoundingClientRect().top - root.parentNode.getBoundingClientRect().top;
    tip.style.top = `${above + item.cy * scale - tip.offsetHeight - 10}px`;
  };
  const hide = () => {
    items[at]?.line?.classList.remove("hot");
    at = -1;
    tip.hidden = true;
    cursor.setAttribute("visibility", "hidden");
  };
  root.addEventListener("pointermove", (event) => {
    const box = root.getBoundingClientRect();
    const x = (event.clientX - box.left) * (width / box.width);
    const y = (event.clientY - box.top) * (height / box.height);
    let best = -1, distance = 60 ** 2;
    items.forEach((item, i) => {
      const d = (item.cx - x) ** 2 + (item.cy - y) ** 2;
      if (d < distance) [best, distance] = [i, d];
    });
    if (best < 0) hide(); else if (best !== at) show(best);
  });
  root.addEventListener("pointerleave", hide);
  root.addEventListener("blur", hide);
  const choose = () => { if (at >= 0 && spec.choose && items[at].run !== undefined) spec.choose(items[at].run); };
  root.addEventListener("click", choose);
  root.addEventListener("keydown", (event) => {
    const series = (by) => {
      const now = items[Math.max(at, 0)].s, next = items.findIndex((item) => item.s === now + by);
      return next < 0 ? Math.max(at, 0) : next;
    };
    const moves = { ArrowRight: () => Math.min(at + 1, items.length - 1), ArrowLeft: () => Math.max(at - 1, 0),
      ArrowDown: () => series(1), ArrowUp: () => series(-1) };
    if (event.key in moves) { event.preventDefault(); show(moves[event.key]()); }
    if (event.key === "Enter") choose();
    if (event.key === "Escape") hide();
  });
}
