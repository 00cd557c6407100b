"use strict";
// What a page does besides being read: charts, sorting, filtering, copying, light and dark.
// All text from data becomes text nodes, never markup.

const DATA = JSON.parse(document.getElementById("data").textContent);

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
}

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function shown(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 1e-4 && Math.abs(value) < 1e6 ? String(Number(value.toPrecision(5))) : value.toExponential(2);
}

function percent(share) {
  return share === null ? "nan" : `${(100 * share).toFixed(1)}\u00a0%`;
}

// Okabe & Ito, in an order that keeps neighbours apart, for more than two series.
const SERIES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f"];

// Colours repeat after eight lines, with the next pattern.
const DASHES = ["solid", "dashed", "dotted", [9, 3, 2, 3]];

function dash(index) {
  return DASHES[Math.floor(index / SERIES.length) % DASHES.length];
}

// The area between the ends of a line's band: [[x, low, high], …]. Its name is the line's, with which it is hidden.
function band(line, index, count) {
  const side = { type: "line", name: line.name, symbol: "none", silent: true, stack: `band${index}`, stackStrategy: "all", lineStyle: { opacity: 0 }, tooltip: { show: false }, color: seriesColour(index, count) };
  return [
    { ...side, data: line.band.map(([x, low]) => [x, low]) },
    { ...side, data: line.band.map(([x, low, high]) => [x, high - low]), areaStyle: { opacity: 0.15 } },
  ];
}

function seriesColour(index, count) {
  return count <= 2 ? colour(["first", "second"][index]) : SERIES[index % SERIES.length];
}

function base(unit) {
  const axis = {
    axisLine: { lineStyle: { color: colour("faint") } },
    axisLabel: { color: colour("faint"), hideOverlap: true },
    nameTextStyle: { color: colour("faint") },
    splitLine: { lineStyle: { color: colour("line") } },
  };
  return {
    animation: false,
    aria: { enabled: false },
    textStyle: { fontFamily: getComputedStyle(document.body).fontFamily, color: colour("ink") },
    axis,
    tooltip: {
      renderMode: "richText", confine: true, backgroundColor: colour("panel"), borderColor: colour("line"),
      textStyle: { color: colour("ink") }, valueFormatter: (value) => shown(value) + (unit || ""),
    },
  };
}

// The label of a vertical line, above the chart and within its width.
function above(x, points) {
  const [low, high] = [points[0][0], points.at(-1)[0]];
  const at = high > low ? (x - low) / (high - low) : 0.5;
  return { color: colour("faint"), formatter: "{b}", position: "end", distance: 8, align: at < 0.2 ? "left" : at > 0.8 ? "right" : "center" };
}

const CHARTS = {
  // Lines over epochs: {series: [{name, points: [[x, y], …], band: [[x, low, high], …]}], unit, axis, log, marks: [{x, name}]}
  lines(spec) {
    const { axis, ...rest } = base(spec.unit);
    const many = spec.series.length > 8;
    return {
      ...rest,
      tooltip: { ...rest.tooltip, trigger: many ? "item" : "axis" },
      legend: {
        type: "scroll", top: 0, textStyle: { color: colour("ink") }, show: spec.series.length > 1,
        pageTextStyle: { color: colour("ink") }, pageIconColor: colour("faint"),
      },
      grid: { left: 12, right: 24, top: spec.marks && spec.marks.length ? 52 : 40, bottom: 62, containLabel: true },
      xAxis: {
        ...axis, type: spec.logx ? "log" : "value", name: spec.x || "epoch", nameLocation: "middle", nameGap: 26,
        min: "dataMin", max: "dataMax", minInterval: spec.fraction ? undefined : 1, splitLine: { show: false },
        axisLabel: { ...axis.axisLabel, formatter: shown },
        axisPointer: { label: { formatter: ({ value }) => `${spec.x || "epoch"} ${shown(value)}` } },
      },
      yAxis: { ...axis, type: spec.log ? "log" : "value", scale: true, max: spec.top, axisLabel: { ...axis.axisLabel, formatter: shown } },
      dataZoom: [
        { type: "inside", zoomOnMouseWheel: "ctrl", moveOnMouseWheel: false, filterMode: "none" },
        { type: "slider", height: 16, bottom: 6, filterMode: "none", textStyle: { color: colour("faint") }, showDetail: false, brushSelect: false, borderColor: colour("line") },
      ],
      series: spec.series.map((line, index) => ({
        type: "line", name: line.name, data: line.points, symbol: index % 2 ? "rect" : "circle",
        symbolSize: 6, showSymbol: line.points.length <= 60,
        lineStyle: { width: many ? 1.5 : 2, type: dash(index) }, triggerLineEvent: many,
        color: seriesColour(index, spec.series.length),
        emphasis: { focus: many ? "series" : "none" },
        markLine: index === 0 && spec.marks && spec.marks.length ? {
          symbol: "none", silent: true, lineStyle: { color: colour("faint"), type: "dotted" },
          data: spec.marks.map((mark) => ({ xAxis: mark.x, name: mark.name, label: above(mark.x, line.points) })),
        } : undefined,
      })).concat(...spec.series.map((line, index) => line.band && !spec.log ? band(line, index, spec.series.length) : [])),
    };
  },

  // Accuracy against confidence: {bins: [{count, share, confidence, accuracy}]}
  calibration(spec) {
    const { axis, ...rest } = base();
    return {
      ...rest,
      tooltip: { ...rest.tooltip, trigger: "item", formatter: (at) => at.data.told || at.seriesName },
      legend: { top: 0, textStyle: { color: colour("ink") } },
      grid: { left: 12, right: 24, top: 52, bottom: 34, containLabel: true },
      xAxis: { ...axis, type: "value", min: 0, max: 1, name: "confidence", nameLocation: "middle", nameGap: 26 },
      yAxis: { ...axis, type: "value", min: 0, max: 1, name: "accuracy" },
      series: [
        {
          type: "line", name: "perfectly calibrated", data: [[0, 0], [1, 1]], symbol: "none", silent: true,
          lineStyle: { type: "dashed", color: colour("faint") }, color: colour("faint"),
        },
        {
          type: "scatter", name: "images of a bin of confidence", color: colour("first"),
          symbolSize: (value) => 6 + 22 * Math.sqrt(value[2]),
          data: spec.bins.map((bin) => ({
            value: [bin.confidence, bin.accuracy, bin.share],
            told: `confidence ${shown(bin.confidence)}, accuracy ${shown(bin.accuracy)}\n${shown(bin.count)} images`,
          })),
        },
      ],
    };
  },

  // Horizontal bars: {names, values, unit, axis}
  bars(spec) {
    const { axis, ...rest } = base(spec.unit);
    return {
      ...rest,
      tooltip: { ...rest.tooltip, trigger: "axis", axisPointer: { type: "shadow" } },
      grid: { left: 12, right: 48, top: 8, bottom: 34, containLabel: true },
      xAxis: { ...axis, type: "value", name: spec.x, nameLocation: "middle", nameGap: 26 },
      yAxis: { ...axis, type: "category", data: spec.names, inverse: true, axisLabel: { ...axis.axisLabel, width: 150, overflow: "truncate" } },
      series: [{ type: "bar", data: spec.values, color: colour("first"), label: { show: true, position: "right", color: colour("ink"), formatter: (at) => shown(at.value) } }],
    };
  },

  // {x: {name, values}, y: {name, values}, cells: [[x, y, value, told], …], metric}
  heat(spec) {
    const { axis, ...rest } = base();
    const values = spec.cells.map((cell) => cell[2]);
    return {
      ...rest,
      tooltip: { ...rest.tooltip, formatter: (at) => spec.cells[at.dataIndex][3] },
      grid: { left: 12, right: 24, top: 34, bottom: 84, containLabel: true },
      xAxis: { ...axis, type: "category", data: spec.x.values, name: spec.x.name, nameLocation: "middle", nameGap: 26, splitArea: { show: false } },
      yAxis: { ...axis, type: "category", data: spec.y.values, name: spec.y.name },
      visualMap: scale(spec, values),
      series: [{ type: "heatmap", data: spec.cells.map((cell) => heatCell(cell, spec, ends(values))), itemStyle: { borderColor: colour("paper"), borderWidth: 2 }, label: { show: spec.cells.length <= 40, formatter: (at) => shown(at.value[2]) } }],
    };
  },

  // {x: axis, y: axis, dots: [[x, y, told] or, coloured, [x, y, value, told], …]}; an axis is {name, log, values of words}
  points(spec) {
    const { axis, ...rest } = base();
    const side = (one) => ({
      ...axis, type: one.values ? "category" : one.log ? "log" : "value", data: one.values, name: one.name, scale: true,
      axisLabel: { ...axis.axisLabel, formatter: one.values ? undefined : shown },
    });
    return {
      ...rest,
      tooltip: { ...rest.tooltip, formatter: (at) => spec.dots[at.dataIndex].at(-1) },
      grid: { left: 12, right: 24, top: 34, bottom: spec.coloured ? 84 : 34, containLabel: true },
      xAxis: { ...side(spec.x), nameLocation: "middle", nameGap: 26 },
      yAxis: { ...side(spec.y), nameTextStyle: { ...axis.nameTextStyle, align: "left" } },
      visualMap: spec.coloured ? scale(spec, spec.dots.map((dot) => dot[2])) : undefined,
      series: [{ type: "scatter", symbolSize: 10, color: colour("first"), itemStyle: { borderColor: colour("paper"), borderWidth: 1 }, data: spec.dots.map((dot) => dot.slice(0, -1)) }],
    };
  },

  // {axes: [{name, type, values, log}], rows: [{name, values}], metric: index of the axis that colours}
  parallel(spec) {
    const { axis, ...rest } = base();
    const last = spec.axes.length - 1;
    const values = spec.rows.map((row) => row.values[last]);
    return {
      ...rest,
      tooltip: { ...rest.tooltip, formatter: (at) => at.name },
      parallel: { left: 60, right: 70, top: 44, bottom: 70, parallelAxisDefault: { nameTextStyle: { color: colour("ink") }, axisLine: axis.axisLine, areaSelectStyle: { width: 16 } } },
      parallelAxis: spec.axes.map((one, dim) => ({
        dim, name: one.name, type: one.values ? "category" : one.log ? "log" : "value", data: one.values || undefined,
        scale: true, axisLabel: { ...axis.axisLabel, formatter: one.values ? undefined : shown, backgroundColor: colour("paper"), padding: [1, 2] },
        nameTruncateLength: 18,
      })),
      visualMap: { ...scale(spec, values), dimension: last },
      series: [{ type: "parallel", lineStyle: { width: 2, opacity: 0.8 }, emphasis: { lineStyle: { width: 4 } }, data: spec.rows.map((row) => ({ name: row.name, value: row.values })) }],
    };
  },
};

// Viridis, on dark paper without its darkest end, which is for what is good.
function ramp(spec) {
  const colours = ["#fde725", "#5ec962", "#21918c", ...(isDark() ? ["#4f7fd0", "#8e6ae0"] : ["#3b528b", "#440154"])];
  return spec.less ? colours.reverse() : colours;
}

function scale(spec, values) {
  const [low, high] = ends(values);
  return {
    min: low, max: high, calculable: true, orient: "horizontal", left: "center", bottom: 0,
    inRange: { color: ramp(spec) }, textStyle: { color: colour("ink") }, formatter: shown, precision: 6,
  };
}

function ends(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return [low, high > low ? high : low + 1e-9];
}

// A cell of a heat map, with a text that is read on its colour.
function heatCell(cell, spec, [low, high]) {
  const share = (cell[2] - low) / (high - low);
  const good = spec.less ? 1 - share : share;
  return { value: cell.slice(0, 3), label: { color: good > 0.4 ? "#ffffff" : "#000000" } };
}

const DRAWN = new Map();

// The width of a chart on paper, in pixels; the style sheet has it too.
const CHART_ON_PAPER = 640;

function draw() {
  for (const place of document.querySelectorAll("[data-chart]")) {
    const spec = DATA.charts[place.dataset.chart];
    let chart = DRAWN.get(place);
    if (!chart) {
      chart = echarts.init(place, null, { renderer: "svg" });
      DRAWN.set(place, chart);
      new ResizeObserver(() => chart.resize()).observe(place);
      if (spec.kind === "lines" && spec.series.length > 8) tellLines(chart);
    }
    chart.setOption(CHARTS[spec.kind](spec), true);
  }
}

// Of many lines, the one that is pointed at says its name, also between its points.
function tellLines(chart) {
  chart.on("mouseover", { seriesType: "line" }, ({ seriesIndex, event }) => {
    const [x] = chart.convertFromPixel({ seriesIndex }, [event.offsetX, event.offsetY]);
    const away = chart.getOption().series[seriesIndex].data.map((point) => Math.abs(point[0] - x));
    chart.dispatchAction({ type: "showTip", seriesIndex, dataIndex: away.indexOf(Math.min(...away)) });
  });
}

function makeSortable(table) {
  const body = table.tBodies[0];
  const key = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    const number = Number(text.replaceAll(",", "").replace(/ ?%$/, ""));
    return text === "" || text === "–" ? null : Number.isNaN(number) ? text : number;
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  };
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = element("button", { type: "button" }, ...head.childNodes);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [key(row, column), row]);
      // What has no value stays at the end, whichever way it is sorted.
      rows.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : down ? compare(b, a) : compare(a, b)));
      body.append(...rows.map(([, row]) => row));
    });
  });
}

function makeFilter(input) {
  const table = document.getElementById(input.dataset.filters);
  const count = document.getElementById(input.dataset.count);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      left += row.hidden ? 0 : 1;
    }
    count.textContent = `${left} shown`;
  });
}

function makeCopy(button) {
  const code = button.parentElement.querySelector("code");
  button.addEventListener("click", () => {
    const range = document.createRange();
    range.selectNodeContents(code);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    // A page opened from a file may have no clipboard; the selection then waits for Ctrl-C.
    const done = () => { button.textContent = "Copied"; };
    const copied = navigator.clipboard ? navigator.clipboard.writeText(code.textContent) : Promise.reject();
    copied.then(done, () => { if (document.execCommand("copy")) done(); });
  });
}

function thumbnail(number, text) {
  const { columns, rows, tiny } = DATA.sprite;
  const across = columns > 1 ? (100 * (number % columns)) / (columns - 1) : 0;
  const down = rows > 1 ? (100 * Math.floor(number / columns)) / (rows - 1) : 0;
  const made = element("span", { class: tiny ? "thumb tiny" : "thumb", role: "img", "aria-label": text });
  made.style.backgroundPosition = `${across}% ${down}%`;
  made.style.backgroundSize = `${100 * columns}% ${100 * rows}%`;
  return made;
}

// A name to stand within a text, where it may be of a script from right to left.
function isolated(name) {
  return /^[\0-\x7f]*$/.test(name) ? name : `\u2068${name}\u2069`;
}

function picture(number) {
  const one = DATA.pictures[number];
  const names = DATA.classes.map(isolated);
  const right = one.label === one.predicted;
  const predicted = `predicted ${names[one.predicted]} (${percent(one.top[0][1])})`;
  const others = one.top.slice(1).map(([which, share]) => `${names[which]} ${percent(share)}`).join(", ");
  const caption = `true ${names[one.label]}, ${predicted}`;
  const button = element("button", { type: "button", class: "enlarge" }, thumbnail(number, caption));
  button.addEventListener("click", () => enlarge(button, caption));
  return element("li", {},
    button,
    element("span", {}, `true ${names[one.label]}, `, element("span", { class: right ? "right" : "wrong" }, predicted)), element("br"),
    element("span", {}, others), element("br"),
    element("span", { class: "name", title: one.name }, `loss ${one.loss === null ? "nan" : one.loss.toFixed(2)}, ${one.name.split("/").map(isolated).join("/")}`));
}

// Shows a button's picture as large as it is, or as the window; Escape or a click closes it.
function enlarge(button, caption) {
  const close = element("button", { type: "button" }, "Close");
  const shownPicture = element("dialog", { "aria-label": caption }, close, " ", caption, button.firstElementChild.cloneNode());
  shownPicture.addEventListener("click", () => shownPicture.close());
  shownPicture.addEventListener("close", () => shownPicture.remove());
  document.body.append(shownPicture);
  shownPicture.showModal();
}

function fillPictures(list) {
  list.replaceChildren(...DATA[list.dataset.pictures].map(picture));
}

function makeCells(holder) {
  const panel = document.getElementById("cell");
  const buttons = [...holder.querySelectorAll("button[data-cell]")];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      const [label, predicted] = button.dataset.cell.split(",").map(Number);
      const found = DATA.pictures.flatMap((one, number) => one.label === label && one.predicted === predicted ? [number] : []);
      const names = DATA.classes.map(isolated);
      const count = Number(button.dataset.count);
      const what = `true ${names[label]}, predicted ${names[predicted]}`;
      const kept = found.length < count ? `; ${found.length} of them are shown` : "";
      panel.replaceChildren(
        element("h3", {}, what),
        element("p", {}, `${count.toLocaleString("en")} ${count === 1 ? "image" : "images"}${kept}.`),
        element("ul", { class: "pictures" }, ...found.map(picture)));
    });
  }
}

// Files beside the page are not there where a copy of it is opened, as from a mail.
function checkLinks(links) {
  let folder;
  try {
    folder = decodeURIComponent(location.pathname).split("/").at(-2);
  } catch { /* an address that is not UTF-8 */ }
  if (!links.length || folder === document.body.dataset.folder) return;
  for (const link of links) link.replaceWith(...link.childNodes);
  for (const note of document.querySelectorAll(".elsewhere")) note.hidden = false;
}

// A table wider than its box says so, and its edge shows on which side there is more.
function makeHint(box) {
  const hint = element("p", { class: "hint", hidden: "" }, "More columns: scroll the table sideways →");
  box.before(hint);
  const look = () => {
    hint.hidden = box.scrollWidth <= box.clientWidth + 1;
    box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  };
  new ResizeObserver(look).observe(box);
  box.addEventListener("scroll", look);
}

function fillContents() {
  const contents = document.getElementById("contents");
  for (const section of document.querySelectorAll("main section[id]")) {
    const link = element("a", { href: "#" + section.id }, section.querySelector("h2").textContent);
    contents.append(element("li", {}, link));
  }
}

function isDark() {
  const { theme } = document.documentElement.dataset;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function makeTheme(button) {
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    draw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  // Paper is light.
  let before;
  addEventListener("beforeprint", () => {
    before = document.documentElement.dataset.theme;
    document.documentElement.dataset.theme = "light";
    draw();
    for (const chart of DRAWN.values()) chart.resize({ width: CHART_ON_PAPER });
  });
  addEventListener("afterprint", () => {
    if (before === undefined) delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = before;
    draw();
    for (const chart of DRAWN.values()) chart.resize({ width: "auto" });
  });
}

fillContents();
makeTheme(document.getElementById("theme"));
document.querySelectorAll("table.sortable").forEach(makeSortable);
document.querySelectorAll("input[data-filters]").forEach(makeFilter);
document.querySelectorAll(".copy").forEach(makeCopy);
document.querySelectorAll("ul[data-pictures]").forEach(fillPictures);
document.querySelectorAll(".cells").forEach(makeCells);
document.querySelectorAll(".scroll:not(.matrix .scroll)").forEach(makeHint);
document.querySelectorAll("figure > .enlarge").forEach((button) => {
  button.addEventListener("click", () => enlarge(button, button.firstElementChild.alt));
});
checkLinks(document.querySelectorAll("a.beside"));
draw();
addEventListener("DOMContentLoaded", () => { document.documentElement.dataset.ready = "true"; });
