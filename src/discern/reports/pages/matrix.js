"use strict";
// The confusion matrix: cells that fit the page or are zoomed, counts or shares, and the names of
// the row and the column that are pointed at.

const GAPS = { large: 2, small: 1, tiny: 0 };
const DIGIT = 7.5; // pixels
const STRONG = 0.69; // of a cell's colour: beyond it, text is readable in the other colour
const NAMED = 11; // pixels of the smallest cell that fits a name beside it
const TINY_LABEL = 6; // pixels of the strip that stands for the rows' names beside tiny cells
const FONT = 12.8; // pixels of the names' letters, and of the room above a column, as in style.css
const HEAD = 172;
const PAPER_WIDTH = 680; // pixels of a page's width, A4 or Letter with the usual margins

function makeMatrix(holder) {
  const box = holder.querySelector(".scroll");
  const table = box.querySelector("table");
  const readout = holder.querySelector(".readout");
  const rows = [...table.tBodies[0].rows];
  const size = rows.length;
  const names = DATA.classes;
  const buttons = [...table.querySelectorAll("button")];
  const counts = rows.map((row) => [...row.cells].slice(1).map((cell) => Number(cell.firstElementChild?.dataset.count || 0)));
  const ofRow = counts.map((row) => row.reduce((sum, count) => sum + count, 0));
  const ofColumn = counts.map((_, column) => counts.reduce((sum, row) => sum + row[column], 0));
  const bands = ["row", "column"].map((name) => element("div", { class: "band " + name, hidden: "" }));
  let [zoom, mode, width] = [0, "count", 0];
  box.append(...bands);

  const pen = document.createElement("canvas").getContext("2d");
  pen.font = `${FONT}px ${getComputedStyle(table).fontFamily}`;
  const wide = (text) => pen.measureText(text).width;
  const longest = Math.max(...names.map(wide));
  const letters = new Intl.Segmenter();
  const label = (across) => Math.min(longest + 14, Math.max(60, 0.3 * across), 190);

  // A cell with its number, one beside its row's name, or neither.
  function kind(cell) {
    return cell >= numbered() ? "large" : cell >= NAMED ? "small" : "tiny";
  }

  // Pixels of the smallest cell that fits its number.
  function numbered() {
    return Math.max(22, DIGIT * Math.max(...buttons.map((button) => button.textContent.length)) + 6);
  }

  // Pixels of a cell when all of them fit, beside the rows' names if those can then be read.
  function fitting(across) {
    const beside = (gap) => (across - label(across) - 2 * gap) / size - gap;
    if (beside(GAPS.large) >= numbered()) return Math.min(beside(GAPS.large), size <= 4 ? 110 : 44);
    if (beside(GAPS.small) >= NAMED) return Math.min(beside(GAPS.small), numbered() - 0.1);
    return Math.max(2, Math.min((across - TINY_LABEL) / size, NAMED - 0.1));
  }

  // A name within so many pixels, shortened in the middle.
  function shorten(name, pixels) {
    if (wide(name) <= pixels) return name;
    const parts = [...letters.segment(name)].map((part) => part.segment);
    const without = (kept) => parts.slice(0, Math.floor(kept / 2)).join("") + "…" + parts.slice(parts.length - Math.ceil(kept / 2)).join("");
    let kept = parts.length - 1;
    while (kept > 0 && wide(without(kept)) > pixels) kept -= 1;
    return without(kept);
  }

  // Writes the names beside the cells; those that shortening makes alike get their number, from 0.
  function name(heads, pixels) {
    const short = names.map((name) => shorten(name, pixels));
    const seen = new Map();
    for (const text of short) seen.set(text, (seen.get(text) || 0) + 1);
    heads.forEach((head, number) => {
      const end = ` #${number}`;
      const alike = seen.get(short[number]) > 1 && short[number] !== names[number];
      head.firstElementChild.textContent = alike ? shorten(names[number], pixels - wide(end)) + end : short[number];
    });
  }

  function resize(across) {
    const cell = Math.min(110, Math.max(2, fitting(across) * 1.5 ** zoom));
    table.dataset.size = kind(cell);
    box.classList.toggle("zoomed", zoom > 0);
    table.classList.toggle("level", cell >= 88 || names.every((name) => name.length <= 3 && cell >= 9 * name.length));
    const [gap, side] = [GAPS[table.dataset.size], table.dataset.size === "tiny" ? TINY_LABEL : label(across)];
    table.style.borderSpacing = `${gap}px`;
    table.style.width = `${side + gap + size * (cell + gap) + gap}px`;
    table.style.setProperty("--cell", `${cell}px`);
    table.style.setProperty("--high", `${Math.min(cell, 44)}px`);
    table.style.setProperty("--label", `${side}px`);
    for (const band of bands) band.hidden = true;
    const smaller = Math.max(1, FONT / (0.85 * cell)); // the names beside small cells
    name(rows.map((row) => row.cells[0]), smaller * (side - 12));
    const level = table.classList.contains("level");
    name([...table.tHead.rows[0].cells].slice(1), level ? Infinity : smaller * HEAD);
  }

  function share(row, column) {
    return counts[row][column] / (mode === "column" ? ofColumn[column] : ofRow[row]);
  }

  function written(row, column) {
    if (mode === "count") return String(counts[row][column]);
    const part = 100 * share(row, column);
    return part < 1 ? "<1" : part > 99 && part < 100 ? ">99" : part.toFixed(0);
  }

  function paint() {
    for (const button of buttons) {
      const [row, column] = button.dataset.cell.split(",").map(Number);
      const strength = Math.sqrt(share(row, column));
      button.textContent = written(row, column);
      button.parentElement.style.setProperty("--share", strength.toFixed(3));
      button.parentElement.classList.toggle("strong", strength > STRONG);
    }
  }

  function named(number) {
    return element("bdi", {}, names[number]);
  }

  function tell(row, column) {
    const count = counts[row][column];
    const part = (whole) => (whole ? percent(count / whole) : "–");
    readout.replaceChildren("true ", named(row), ", predicted ", named(column), `: ${shown(count)} ${count === 1 ? "image" : "images"} (${part(ofRow[row])} of the row, ${part(ofColumn[column])} of the column)`);
  }

  // Marks the row and the column of a cell.
  function mark(row, column) {
    const [side, head] = [rows[row].cells[0], table.tHead.rows[0].cells[column + 1]];
    for (const band of bands) band.hidden = false;
    Object.assign(bands[0].style, { top: `${rows[row].offsetTop}px`, height: `${side.offsetHeight}px`, width: `${table.offsetWidth}px` });
    Object.assign(bands[1].style, { top: `${head.offsetTop}px`, left: `${rows[row].cells[column + 1].offsetLeft}px`, width: `${head.offsetWidth}px`, height: `${table.offsetHeight - head.offsetTop}px` });
  }

  function point(cell) {
    if (!cell || cell.parentElement.parentElement !== table.tBodies[0]) return;
    const [row, column] = [cell.parentElement.sectionRowIndex, cell.cellIndex - 1];
    tell(row, column);
    mark(row, column);
  }

  // From a cell to the next one that has images, in the direction of an arrow key.
  function next(button, [down, right]) {
    let [row, column] = button.dataset.cell.split(",").map(Number);
    do {
      row += down;
      column += right;
    } while (counts[row]?.[column] === 0);
    return counts[row]?.[column] ? rows[row].cells[column + 1].firstElementChild : null;
  }

  const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  table.addEventListener("keydown", (event) => {
    if (!event.target.dataset.cell || !ARROWS[event.key]) return;
    event.preventDefault();
    const to = next(event.target, ARROWS[event.key]);
    if (!to) return;
    for (const button of buttons) button.tabIndex = button === to ? 0 : -1;
    to.focus();
  });
  for (const kind of ["pointerover", "click", "focusin"]) {
    table.addEventListener(kind, (event) => point(event.target.closest("td")));
  }
  for (const choice of holder.querySelectorAll("input")) {
    choice.addEventListener("change", () => {
      mode = choice.value;
      paint();
      resize(width);
    });
  }
  holder.querySelector("select").addEventListener("change", (event) => {
    const one = Number(event.target.value || -1);
    for (const band of bands) band.hidden = true;
    if (one < 0) return;
    rows[one].cells[one + 1].scrollIntoView({ block: "nearest", inline: "center" });
    mark(one, one);
    readout.replaceChildren(named(one), `: row and column ${one + 1} of ${size}; ${shown(ofRow[one])} images, ${shown(ofColumn[one])} predicted as it`);
  });
  for (const button of holder.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", () => {
      zoom = { in: zoom + 1, out: Math.max(0, zoom - 1), fit: 0 }[button.dataset.zoom];
      resize(width);
      table.querySelector("[aria-pressed=true]")?.scrollIntoView({ block: "nearest", inline: "center" });
    });
  }
  table.classList.add("fixed");
  for (const button of buttons.slice(1)) button.tabIndex = -1;
  holder.querySelector(".controls").hidden = false;
  readout.hidden = false;
  readout.textContent = "Point at a cell, or tap it, to read its classes here.";
  new ResizeObserver(() => {
    if (box.clientWidth !== width) resize((width = box.clientWidth));
  }).observe(box);
  addEventListener("beforeprint", () => { zoom = 0; resize(PAPER_WIDTH); });
  addEventListener("afterprint", () => resize(width));
}

document.querySelectorAll(".matrix").forEach(makeMatrix);
