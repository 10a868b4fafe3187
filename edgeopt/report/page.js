// Draws the charts (Observable Plot), shows a point's figures on hover, focus and tap, sorts tables, switches the theme.
// Without it the page still has every figure in its tables. Texts come from the page's own attributes and are only ever
// set as text.
"use strict";

const tip = document.getElementById("tip");
const color = (n) => `var(--c${n % 6})`;
const free = (name) => ({ value: name, scale: null });

// How figures are written on axes.
const scaled = d3.format(".3~s");
const write = {
  bytes: (v) => (v < 1000 ? `${d3.format(".3~r")(v)} B` : scaled(v).replace(/([kMGT])$/, (unit) => ` ${unit.toUpperCase()}B`)),
  ms: (v) => `${d3.format(".3~r")(v)} ms`,
  percent: (v) => `${d3.format(".2~f")(100 * v)} %`,
  number: (v) => (Math.abs(v) >= 1e4 || (v && Math.abs(v) < 1e-3) ? d3.format(".2~e")(v) : d3.format(".3~r")(v)),
};

// ---- axes -----------------------------------------------------------------------------------------------------------

/** A positive figure's scale over `room` pixels: from 0, or logarithmic where it differs by a large factor. */
function costScale(values, room) {
  const [low, high] = d3.extent(values);
  if (low <= 0 || high / low < 6) {
    const end = (high || 1) * 1.08;
    return { type: "linear", domain: [0, end], ticks: d3.ticks(0, end, room / 80) };
  }
  const domain = [low / 1.5, high * 1.5];
  const decades = d3.range(Math.floor(Math.log10(low)) - 1, Math.ceil(Math.log10(high)) + 1);
  const choices = [[1, 2, 5], [1, 3], [1]].map((steps) =>
    decades.flatMap((n) => steps.map((m) => m * 10 ** n)).filter((v) => v >= domain[0] && v <= domain[1]),
  );
  const narrowest = (ticks) => d3.min(d3.pairs(ticks), ([a, b]) => (room * Math.log(b / a)) / Math.log(domain[1] / domain[0]));
  return { type: "log", domain, ticks: choices.find((ticks) => narrowest(ticks) >= 54) ?? choices[2] };
}

function shareScale(values) {
  const [low, high] = d3.extent(values);
  const room = 0.12 * (high - low) || 0.02;
  const domain = [Math.max(0, low - room), Math.min(1 + 0.04 * room, high + room)];
  return { domain, ticks: d3.ticks(domain[0], domain[1], 5) };
}

// ---- the three kinds of chart -----------------------------------------------------------------------------------------

/** Accuracy against one cost: the float model, every stage, every artifact. */
function tradeoff({ points, unit, x: label, y: heading }, width) {
  const { ticks, ...x } = costScale(points.map((p) => p.x), width - 84);
  const y = shareScale(points.flatMap((p) => [p.y, p.low ?? p.y, p.high ?? p.y]));
  const of = (kind) => points.filter((p) => p.kind === kind);
  const at = { x: "x", y: "y", ariaLabel: "tip", sort: null };
  const svg = Plot.plot({
    width,
    height: Math.round(Math.min(330, Math.max(250, 0.75 * width))),
    marginLeft: 58,
    marginRight: 26,
    marginTop: 26,
    marginBottom: 50,
    x,
    y: { domain: y.domain },
    marks: [
      Plot.axisX([], { label: null }),
      Plot.gridX(ticks, { stroke: "var(--rule)", strokeOpacity: 1 }),
      Plot.gridY(y.ticks, { stroke: "var(--rule)", strokeOpacity: 1 }),
      // an axis mark would leave out some of a logarithmic scale's labels
      Plot.text(ticks, { x: (v) => v, text: (v) => write[unit](v), frameAnchor: "bottom", lineAnchor: "top", dy: 10, fontSize: 12 }),
      Plot.axisY(y.ticks, { tickFormat: write.percent, tickSize: 0, tickPadding: 8, label: null, fontSize: 12 }),
      Plot.text([`↑ ${heading}`], { frameAnchor: "top-left", dx: -52, dy: -24, fontSize: 12 }),
      Plot.text([`${label}${x.type === "log" ? ", logarithmic" : ""} →`], { frameAnchor: "bottom-right", dy: 40, dx: 20, fontSize: 12 }),
      Plot.line(of("stage"), { x: "x", y: "y", stroke: "var(--soft)", strokeDasharray: "2 4" }),
      Plot.ruleX(points.filter((p) => p.low != null), { x: "x", y1: "low", y2: "high", stroke: free((p) => ink(p)), strokeWidth: 1.5, strokeOpacity: 0.5 }),
      Plot.dot(of("baseline"), { ...at, symbol: "square", rotate: 45, r: 13, fill: "var(--card)", stroke: "var(--ink)", strokeWidth: 2 }),
      Plot.dot(of("stage"), { ...at, r: 8.5, fill: "var(--card)", stroke: "var(--soft)" }),
      Plot.text(of("stage"), { x: "x", y: "y", text: "mark", fontSize: 11, fontWeight: 600 }),
      Plot.dot(of("tier"), { ...at, r: 6.5, fill: free((p) => ink(p)), stroke: "var(--card)", strokeWidth: 1.5 }),
    ],
  });
  const dots = [...svg.querySelectorAll("g[aria-label=dot] > *")];
  return {
    svg,
    targets: dots,
    finish: () => nameDots(svg, points.filter((p) => p.kind !== "stage"), dots),
  };
}

const ink = (point) => (point.kind === "tier" ? color(point.color) : "var(--ink)");

/** Writes names beside dots, each on the side where it covers least of what is drawn already. */
function nameDots(svg, named, dots) {
  const frame = svg.viewBox.baseVal;
  const taken = dots.map((dot) => dot.getBBox && boxOf(dot, svg));
  for (const point of named) {
    const dot = boxOf(dots.find((own) => own.dataset.tip === point.tip), svg);
    const text = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "text"));
    text.textContent = point.name;
    text.setAttribute("class", "name");
    text.setAttribute("text-anchor", "start");
    text.setAttribute("aria-hidden", "true");
    text.style.fill = ink(point);
    const { width, height } = text.getBBox();
    const [middle, level] = [dot.x + dot.width / 2, dot.y + dot.height / 2];
    const [right, left, above, below] = [dot.x + dot.width + 4, dot.x - width - 4, dot.y - height, dot.y + dot.height];
    const spots = [[right, level - height / 2], [left, level - height / 2]];
    for (const y of [above, below]) for (const x of [middle - width / 2, right - 6, left + 6]) spots.push([x, y]);
    for (const y of [above - height, below + height]) for (const x of [middle - width / 2, right - 6, left + 6]) spots.push([x, y]);
    const boxes = spots.map(([x, y]) => ({ x, y, width, height }));
    const cost = (box, n) => n + d3.sum(taken, (other) => overlap(box, other)) + 20 * outside(box, frame);
    const best = boxes[d3.leastIndex(boxes.map(cost), d3.ascending)];
    taken.push(best);
    text.setAttribute("x", best.x);
    text.setAttribute("y", best.y + 0.78 * height);
  }
}

function boxOf(element, svg) {
  const [own, whole] = [element.getBoundingClientRect(), svg.getBoundingClientRect()];
  return { x: own.x - whole.x, y: own.y - whole.y, width: own.width, height: own.height };
}

const along = (a, b, c, d) => Math.max(0, Math.min(b, d) - Math.max(a, c));
const overlap = (a, b) => along(a.x, a.x + a.width, b.x, b.x + b.width) * along(a.y, a.y + a.height, b.y, b.y + b.height);
const outside = (box, frame) => box.width * box.height - overlap(box, { x: 58, y: 14, width: frame.width - 62, height: frame.height - 64 });

/** One strip of bars for each figure, layer by layer from input to output. */
function strips({ metrics, layers, color: number }, width) {
  const bars = layers.flatMap(({ values }, layer) =>
    values.map((value, metric) => ({ layer, metric, share: Math.max(0, value ?? 0) / metrics[metric].most })),
  );
  const peak = (bar) => metrics[bar.metric].peak === bar.layer;
  const margin = 104;
  const svg = Plot.plot({
    width,
    height: 8 + 56 * metrics.length,
    marginLeft: margin,
    marginRight: 4,
    marginTop: 4,
    marginBottom: 4,
    x: { type: "band", domain: d3.range(layers.length), axis: null, padding: layers.length > 80 ? 0 : 0.18 },
    y: { domain: [0, 1], axis: null },
    fy: { domain: d3.range(metrics.length), axis: null, padding: 0.16 },
    marks: [
      Plot.barY(bars, { x: "layer", y: "share", fy: "metric", fill: free((bar) => (peak(bar) ? "var(--mark)" : color(number))) }),
      Plot.ruleY([0], { stroke: "var(--rule)" }),
      Plot.text(metrics, { fy: (_, n) => n, text: "name", frameAnchor: "left", dx: -margin, dy: -8, fontSize: 12, fontWeight: 600 }),
      Plot.text(metrics, { fy: (_, n) => n, text: "note", frameAnchor: "left", dx: -margin, dy: 8, fontSize: 11.5, fill: "var(--soft)" }),
    ],
  });
  const x = svg.scale("x");
  const columns = layers.map((layer, n) => ({ x: x.apply(n), width: x.bandwidth, tip: layer.tip }));
  return { svg, targets: overlay(svg, columns) };
}

/** One metric of a training over its epochs. */
function curve({ epochs, values, tips }, width) {
  const line = d3.zip(epochs, values);
  const svg = Plot.plot({
    width,
    height: 132,
    marginLeft: 44,
    marginRight: 10,
    marginTop: 10,
    marginBottom: 24,
    marks: [
      Plot.gridY({ ticks: 4, stroke: "var(--rule)", strokeOpacity: 1 }),
      Plot.axisY({ ticks: 4, tickFormat: write.number, tickSize: 0, label: null, fontSize: 11.5 }),
      Plot.axisX({ ticks: 4, tickFormat: d3.format("~s"), tickSize: 0, label: null, fontSize: 11.5 }),
      Plot.line(line, { stroke: "var(--accent)", strokeWidth: 1.75 }),
      Plot.dot(line.slice(-1), { fill: "var(--accent)", r: 3.5 }),
    ],
  });
  const x = svg.scale("x");
  const step = line.length > 1 ? (x.apply(epochs.at(-1)) - x.apply(epochs[0])) / (line.length - 1) : 12;
  const columns = tips.map((text, n) => ({ x: x.apply(epochs[n]) - step / 2, width: step, tip: text }));
  return { svg, targets: overlay(svg, columns) };
}

/** Transparent columns over a chart, one for each thing that has something to say. */
function overlay(svg, columns) {
  const layer = d3.select(svg).append("g");
  const height = svg.viewBox.baseVal.height;
  return columns.map(({ x, width, tip: text }) =>
    layer.append("rect").attr("class", "column").attr("x", x).attr("width", Math.max(1, width)).attr("y", 0).attr("height", height).attr("aria-label", text).node(),
  );
}

// ---- drawing ----------------------------------------------------------------------------------------------------------

const kinds = { tradeoff, strips, curve };

function draw(place) {
  const width = Math.floor(place.clientWidth);
  if (!width || Number(place.dataset.width) === width) return;
  place.dataset.width = width;
  const { svg, targets, finish } = kinds[place.dataset.kind](JSON.parse(place.dataset.figures), width);
  const texts = targets.map((target) => target.getAttribute("aria-label"));
  for (const group of svg.querySelectorAll("g[aria-label], path[aria-label], text[aria-label]")) group.removeAttribute("aria-label");
  for (const part of svg.querySelectorAll("text, line, g > path")) part.setAttribute("aria-hidden", "true");
  targets.forEach((target, n) => {
    target.removeAttribute("aria-hidden");
    for (const [name, value] of [["role", "img"], ["aria-label", texts[n]], ["data-tip", texts[n]], ["tabindex", n ? -1 : 0]]) target.setAttribute(name, value);
    target.classList.add("target");
  });
  svg.setAttribute("role", "group");
  svg.setAttribute("aria-label", `${place.dataset.title}; arrow keys go from point to point`);
  place.replaceChildren(svg);
  finish?.();
}

/** Arrow keys, Home and End go through the points of a chart, which is one stop of the Tab key. */
function rove(event) {
  const targets = [...event.currentTarget.querySelectorAll(".target")];
  const at = targets.indexOf(document.activeElement);
  const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: targets.length - 1 }[event.key];
  if (at < 0 || to === undefined || !targets[to]) return;
  event.preventDefault();
  targets[at].setAttribute("tabindex", -1);
  targets[to].setAttribute("tabindex", 0);
  targets[to].focus();
}

const places = document.querySelectorAll(".plot");
const watcher = new ResizeObserver((entries) => entries.forEach((entry) => draw(entry.target)));
for (const place of places) {
  draw(place);
  place.addEventListener("keydown", rove);
  watcher.observe(place);
}

// ---- tips -------------------------------------------------------------------------------------------------------------

function show(event) {
  const point = event.target.closest?.("[data-tip]");
  if (!point) return hide();
  tip.textContent = point.dataset.tip;
  tip.hidden = false;
  const box = point.getBoundingClientRect();
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  const left = Math.max(8, Math.min(room, box.left + box.width / 2 - tip.offsetWidth / 2));
  const above = box.top - tip.offsetHeight - 8;
  tip.style.left = `${left + window.scrollX}px`;
  tip.style.top = `${(above < 0 ? box.bottom + 8 : above) + window.scrollY}px`;
}

function hide() {
  tip.hidden = true;
}

document.addEventListener("pointerover", show);
document.addEventListener("focusin", show);
document.addEventListener("focusout", hide);
document.addEventListener("keydown", (event) => event.key === "Escape" && hide());

// ---- tables and theme -------------------------------------------------------------------------------------------------

function sort(event) {
  const head = event.currentTarget.closest("th");
  const body = head.closest("table").tBodies[0];
  const descending = head.getAttribute("aria-sort") !== "descending";
  const figure = (row) => row.cells[head.cellIndex].dataset.value;
  const [known, unknown] = [true, false].map((has) => [...body.rows].filter((row) => Boolean(figure(row)) === has));
  known.sort((a, b) => (descending ? 1 : -1) * (figure(b) - figure(a)));
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  body.append(...known, ...unknown); // rows without the figure stay last
}

for (const button of document.querySelectorAll("th > button")) button.addEventListener("click", sort);

const theme = document.getElementById("theme");
const themes = ["auto", "light", "dark"];
theme.hidden = false;
theme.addEventListener("click", () => {
  const next = themes[(themes.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % themes.length];
  document.documentElement.dataset.theme = next;
  theme.textContent = `Theme: ${next}`;
});
