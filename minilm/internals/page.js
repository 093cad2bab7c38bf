"use strict";
// The page's own script: chips of tokens, maps, a chart, a table that sorts. No library, no network.
// All text goes in as textContent; nothing here makes HTML out of a string.

const figures = JSON.parse(document.getElementById("figures").textContent);
const byId = (id) => document.getElementById(id);
const signed = (x) => (x < 0 ? "" : "+") + x.toFixed(4);
const largest = (values) => values.reduce((most, x) => Math.max(most, Math.abs(x)), 0);

function make(tag, parent, properties = {}) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  parent?.append(element);
  return element;
}

function numbers({ type, base64 }) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  if (type === "float64") return new Float64Array(bytes.buffer);
  if (type === "float32") return new Float32Array(bytes.buffer);
  return Float32Array.from(bytes, (q) => (q / 255) ** 2); // "uint8": the root, in 255 steps
}

// The shade of a value: transparent at 0, full at the largest.
function shade(value, most, unsigned) {
  const strength = most ? Math.min(1, Math.abs(value) / most) : 0;
  const name = unsigned ? "looks" : value < 0 ? "takes" : "adds";
  return `color-mix(in srgb, var(--${name}) ${(80 * strength).toFixed(1)}%, transparent)`;
}

// A radio group: name → chosen value, by mouse and by arrow keys as browsers do it.
function choice(parent, title, options, chosen, onChange) {
  const group = make("fieldset", parent, { className: "choice" });
  make("legend", group, { textContent: title });
  const name = `choice-${document.querySelectorAll(".choice").length}`;
  for (const [value, text] of options) {
    const id = `${name}-${value}`;
    const input = make("input", group, { type: "radio", name, id, value, checked: value === chosen });
    make("label", group, { htmlFor: id, textContent: text });
    input.addEventListener("change", () => onChange(value));
  }
}

// Word pieces as chips: one tab stop, arrow keys go along.
class Chips {
  constructor(parent, pieces, label, onMove) {
    this.box = make("div", parent, { className: "tokens", role: "toolbar", "aria-label": label });
    this.chips = pieces.map((piece, i) => {
      const chip = make("button", this.box, { type: "button", tabIndex: i ? -1 : 0, "aria-pressed": "false" });
      make("bdi", chip, { textContent: piece });
      chip.addEventListener("pointerenter", () => this.at(i));
      chip.addEventListener("focus", () => this.at(i));
      return chip;
    });
    this.place = 0;
    this.onMove = onMove;
    this.box.addEventListener("keydown", (event) => {
      const last = this.chips.length - 1;
      const to = { ArrowRight: this.place + 1, ArrowLeft: this.place - 1, Home: 0, End: last }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      this.chips[Math.max(0, Math.min(last, to))].focus();
    });
  }

  at(place) {
    const before = this.chips[this.place];
    before.tabIndex = -1;
    before.setAttribute("aria-pressed", "false");
    this.place = place;
    this.chips[place].tabIndex = 0;
    this.chips[place].setAttribute("aria-pressed", "true");
    this.onMove(place);
  }

  shade(values, unsigned) {
    const most = largest(values);
    this.chips.forEach((chip, i) => (chip.style.background = shade(values[i], most, unsigned)));
  }
}

// A matrix as a map: a canvas with one pixel for each cell, made larger by CSS; the pointer or the
// arrow keys choose a cell.
class HeatMap {
  constructor(parent, label, describe) {
    this.readout = make("p", parent, { className: "readout", role: "status" });
    this.box = make("div", parent, {
      className: "map", tabIndex: 0, role: "application", "aria-roledescription": "map",
      "aria-label": `${label} Arrow keys move from cell to cell.`,
    });
    const sheet = make("div", this.box, { className: "sheet" });
    make("div", sheet, { className: "corner" });
    this.columnLabels = make("div", sheet, { className: "columns" });
    this.rowLabels = make("div", sheet, { className: "rows" });
    this.cells = make("div", sheet, { className: "cells" });
    this.canvas = make("canvas", this.cells);
    this.cursor = make("div", this.cells, { className: "cursor" });
    this.describe = describe;
    const point = (event) => {
      const { left, top } = this.cells.getBoundingClientRect();
      this.at(Math.floor((event.clientY - top) / this.size), Math.floor((event.clientX - left) / this.size));
    };
    this.cells.addEventListener("pointermove", point);
    this.cells.addEventListener("pointerdown", point);
    this.box.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.measure()).observe(parent);
  }

  set(values, rows, columns, unsigned = false) {
    Object.assign(this, { values, rows, columns });
    const [R, C] = [rows.length, columns.length];
    const most = largest(values);
    this.canvas.width = C;
    this.canvas.height = R;
    const context = this.canvas.getContext("2d");
    const image = context.createImageData(C, R);
    const probe = (name) => {
      this.canvas.style.color = `var(--${name})`;
      const found = getComputedStyle(this.canvas).color.match(/[\d.]+/g).map(Number);
      return found.slice(0, 3);
    };
    const [up, down] = unsigned ? [probe("looks"), probe("looks")] : [probe("adds"), probe("takes")];
    for (let i = 0; i < R * C; i++) {
      image.data.set(values[i] < 0 ? down : up, 4 * i);
      image.data[4 * i + 3] = most ? 255 * Math.min(1, Math.abs(values[i]) / most) : 0;
    }
    context.putImageData(image, 0, 0);
    this.repaint = () => this.set(values, rows, columns, unsigned);
    this.measure();
  }

  // The size of a cell: what fits, but never too small to point at or to read its label.
  measure() {
    if (!this.rows) return;
    const [R, C] = [this.rows.length, this.columns.length];
    const room = this.box.parentElement.clientWidth - 130;
    this.size = Math.max(C > 64 || R > 64 ? 5 : 17, Math.min(30, Math.floor(room / C)));
    const labelled = this.size >= 14;
    this.label(this.rowLabels, labelled ? this.rows : [], "height");
    this.label(this.columnLabels, labelled ? this.columns : [], "width");
    this.cells.style.width = `${C * this.size}px`;
    this.cells.style.height = `${R * this.size}px`;
    this.at(Math.min(this.row ?? 0, R - 1), Math.min(this.column ?? 0, C - 1));
  }

  label(parent, names, side) {
    parent.replaceChildren(
      ...names.map((name) => {
        const span = make("span", null, { textContent: name, title: name });
        span.style[side] = span.style.lineHeight = `${this.size}px`;
        span.style.unicodeBidi = "isolate";
        return span;
      }),
    );
  }

  at(row, column) {
    const [R, C] = [this.rows.length, this.columns.length];
    [row, column] = [Math.max(0, Math.min(R - 1, row)), Math.max(0, Math.min(C - 1, column))];
    this.rowLabels.children[this.row]?.classList.remove("here");
    this.columnLabels.children[this.column]?.classList.remove("here");
    [this.row, this.column] = [row, column];
    this.rowLabels.children[row]?.classList.add("here");
    this.columnLabels.children[column]?.classList.add("here");
    const { style } = this.cursor;
    style.width = style.height = `${this.size}px`;
    style.transform = `translate(${column * this.size}px, ${row * this.size}px)`;
    this.readout.textContent = this.describe(row, column, this.values[row * C + column]);
  }

  key(event) {
    const [R, C] = [this.rows.length, this.columns.length];
    const moves = {
      ArrowUp: [this.row - 1, this.column], ArrowDown: [this.row + 1, this.column],
      ArrowLeft: [this.row, this.column - 1], ArrowRight: [this.row, this.column + 1],
      Home: [this.row, 0], End: [this.row, C - 1], PageUp: [0, this.column], PageDown: [R - 1, this.column],
    };
    if (!(event.key in moves) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    this.at(...moves[event.key]);
    this.show();
  }

  // Scrolls the box, and only the box, until the cell can be seen.
  show() {
    const inside = this.box.getBoundingClientRect();
    const cell = this.cursor.getBoundingClientRect();
    const left = inside.left + this.rowLabels.offsetWidth;
    const top = inside.top + this.columnLabels.offsetHeight;
    this.box.scrollLeft += Math.min(0, cell.left - left) + Math.max(0, cell.right - inside.right + 18);
    this.box.scrollTop += Math.min(0, cell.top - top) + Math.max(0, cell.bottom - inside.bottom + 18);
  }
}

const texts = figures.texts.map((text) => ({ ...text, attention: numbers(text.attention) }));
const maps = [];
const SIDES = ["A", "B"];

// ---- tokens ---------------------------------------------------------------------------------------

const pairs = figures.pairs && numbers(figures.pairs);
const shares = texts.map((text, side) => {
  if (!pairs) return null;
  const columns = texts[1].tokens.length;
  return text.tokens.map((_, place) => {
    let sum = 0;
    if (side) for (let i = 0; i < texts[0].tokens.length; i++) sum += pairs[i * columns + place];
    else for (let j = 0; j < columns; j++) sum += pairs[place * columns + j];
    return sum;
  });
});

const rows = texts.map((text, side) => {
  const parent = byId(`text-${side}`);
  const chips = new Chips(parent, text.tokens, `Tokens of text ${SIDES[side]}`, (i) => {
    const parts = [`${i}: ${text.tokens[i]}`, `id ${text.ids[i]}`, `‖embedding‖ ${text.norms[i].toFixed(4)}`];
    if (text.from[i]) parts.splice(1, 0, `from “${text.from[i]}”`);
    if (shares[side]) parts.push(`contextual ${signed(shares[side][i])}`);
    if (text.input) parts.push(`input ${signed(text.input[i])}`);
    readout.textContent = parts.join(" · ");
  });
  const readout = make("p", parent, { className: "readout", role: "status" });
  chips.at(0);
  return chips;
});
if (figures.score !== null) {
  const shadeBy = (kind) => rows.forEach((chips, side) => chips.shade(kind === "input" ? texts[side].input : shares[side]));
  const kinds = [["contextual", "contextual tokens"], ["input", "word pieces put in"]].slice(pairs ? 0 : 1);
  choice(byId("shades"), "Shade by", kinds, kinds[0][0], shadeBy);
  shadeBy(kinds[0][0]);
}

// ---- the score's map ------------------------------------------------------------------------------

if (pairs) {
  const [a, b] = texts.map((text) => text.tokens);
  const percent = (x) => (figures.score ? ` (${((100 * x) / figures.score).toFixed(1)} % of the score)` : "");
  const map = new HeatMap(
    byId("pair-map"), "Token-pair map of the score: a row for each token of A, a column for each of B.",
    (i, j, x) => `${a[i]} × ${b[j]}  ${signed(x)}${percent(x)}`,
  );
  map.set(pairs, a, b);
  maps.push(map);
  const order = Array.from(pairs.keys()).sort((x, y) => Math.abs(pairs[y]) - Math.abs(pairs[x]) || x - y);
  for (const place of order.slice(0, 12)) {
    const [i, j] = [Math.floor(place / b.length), place % b.length];
    const text = `${signed(pairs[place])}  ${a[i]} × ${b[j]}`;
    const button = make("button", make("li", byId("best")), { type: "button", textContent: text });
    button.addEventListener("click", () => { map.at(i, j); map.show(); });
  }
}

// ---- attention ------------------------------------------------------------------------------------

const state = { side: 0, layer: 0, head: "mean" };
const chipRow = byId("attention-tokens");
let looking;

function attention() {
  const { tokens, attention, layers, heads } = texts[state.side];
  const T = tokens.length;
  const from = (head) => (state.layer * heads + head) * T * T;
  if (state.head !== "mean") return attention.subarray(from(state.head), from(state.head) + T * T);
  const mean = new Float32Array(T * T);
  for (let head = 0; head < heads; head++) {
    const start = from(head);
    for (let i = 0; i < T * T; i++) mean[i] += attention[start + i] / heads;
  }
  return mean;
}

const attentionMap = new HeatMap(
  byId("attention-map"), "Attention: a row for each token that looks, a column for each that is looked at.",
  (i, j, x) => `${texts[state.side].tokens[i]} → ${texts[state.side].tokens[j]}  ${x.toFixed(4)}`,
);
maps.push(attentionMap);

function showAttention(newText) {
  const { tokens } = texts[state.side];
  const values = attention();
  const T = tokens.length;
  const look = (i) => {
    const row = attentionMap.values.subarray(i * T, (i + 1) * T);
    looking.shade(row, true);
    const best = Array.from(row.keys()).sort((x, y) => row[y] - row[x]).slice(0, 4);
    byId("looks").textContent = `${tokens[i]} looks at ` + best.map((j) => `${tokens[j]} ${row[j].toFixed(3)}`).join(", ");
  };
  attentionMap.set(values, tokens, tokens, true);
  if (newText) {
    chipRow.replaceChildren();
    looking = new Chips(chipRow, tokens, "Tokens that look", look);
  }
  looking.at(looking.place);
}
const choose = (name) => (value) => { state[name] = value; showAttention(name === "side"); };
const count = (n) => Array.from({ length: n }, (_, i) => [i, String(i)]);
const controls = byId("attention-controls");
if (texts.length > 1) choice(controls, "Text", [[0, "A"], [1, "B"]], 0, choose("side"));
choice(controls, "Layer", count(texts[0].layers), 0, choose("layer"));
choice(controls, "Head", [["mean", "mean"], ...count(texts[0].heads)], "mean", choose("head"));
showAttention(true);

// ---- the way through the layers -------------------------------------------------------------------

(function chart() {
  const lines = texts.map((text, side) => [texts.length > 1 ? `${SIDES[side]} to its last` : "to the last", text.toLast]);
  if (figures.scoreByLayer) lines.unshift(["A with B", figures.scoreByLayer]);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const add = (tag, attributes, text) => {
    const element = document.createElementNS(svg.namespaceURI, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    svg.append(element);
  };
  const all = lines.flatMap(([, values]) => values);
  const low = Math.min(0, ...all), high = Math.max(1, ...all), last = all.length / lines.length - 1;
  const x = (i) => 40 + (400 * i) / last, y = (v) => 10 + (180 * (high - v)) / (high - low);
  svg.setAttribute("viewBox", "0 0 560 225");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "Similarity by layer; the table below has the numbers.");
  for (const v of [low, (low + high) / 2, high]) {
    add("line", { x1: 40, x2: 440, y1: y(v), y2: y(v) });
    add("text", { x: 34, y: y(v) + 4, "text-anchor": "end" }, v.toFixed(2));
  }
  for (let i = 0; i <= last; i++) add("text", { x: x(i), y: 212, "text-anchor": "middle" }, i ? i - 1 : "emb.");
  // Names at the lines' ends, moved apart where they would cover each other.
  const ends = lines.map(([name, values], n) => ({ name, n, y: y(values[last]) + 4 })).sort((p, q) => p.y - q.y);
  ends.forEach((end, n) => { if (n) end.y = Math.max(end.y, ends[n - 1].y + 15); });
  lines.forEach(([, values], n) => {
    add("polyline", { class: `c${n}`, points: values.map((v, i) => `${x(i)},${y(v)}`).join(" ") });
    values.forEach((v, i) => add("circle", { class: `c${n}`, cx: x(i), cy: y(v), r: 3.5 }));
  });
  for (const end of ends) add("text", { class: `name c${end.n}`, x: 450, y: end.y }, end.name);
  byId("chart").append(svg);
})();

// ---- components -----------------------------------------------------------------------------------

const table = byId("component-table");
if (table) {
  const parts = figures.components;
  const layers = [...new Set(parts.map((part) => `layer ${part.layer}`))];
  const names = parts.slice(0, parts.length / layers.length).map((part) => (part.part === "head" ? `${part.head}` : part.part.replace("_", "-")));
  const map = new HeatMap(
    byId("component-map"), "What the score loses without each component: a row for each layer.",
    (i, j, x) => `without ${parts[i * names.length + j].name}: ${parts[i * names.length + j].without.toFixed(4)}, it loses ${signed(x)}`,
  );
  map.set(parts.map((part) => part.loss), layers, names);
  maps.push(map);
  const most = largest(parts.map((part) => part.loss));
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  for (const row of table.tBodies[0].rows) {
    const loss = Number(value(row, 5));
    const bar = make("i", row.insertCell(), { className: loss < 0 ? "takes" : "adds" });
    bar.parentElement.className = "bar";
    bar.style.width = `${(100 * Math.abs(loss)) / most}%`;
  }
  make("th", table.tHead.rows[0], { "aria-hidden": "true" });
  const headers = [...table.tHead.rows[0].cells].slice(0, 6);
  headers.forEach((header, column) => {
    const button = make("button", null, { type: "button", textContent: header.textContent });
    header.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = header.getAttribute("aria-sort") !== "descending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sorted = [...table.tBodies[0].rows].sort((p, q) => {
        const order = value(p, column).localeCompare(value(q, column), "en", { numeric: true });
        const difference = Number(value(p, column)) - Number(value(q, column));
        return (down ? -1 : 1) * (Number.isNaN(difference) ? order : difference);
      });
      table.tBodies[0].append(...sorted);
    });
  });
}

// ---- light and dark -------------------------------------------------------------------------------

const dark = matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;
const theme = byId("theme");
const isDark = () => (root.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
function paint() {
  theme.textContent = isDark() ? "Light" : "Dark";
  for (const map of maps) map.repaint();
}
theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; paint(); });
dark.addEventListener("change", paint);
paint();
