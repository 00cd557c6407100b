// What the page does: takes pictures from a person, hands them to the worker, and shows its answers.
// Names are text nodes, never markup.

const DATA = JSON.parse(document.getElementById("data").textContent);
const SHOWN = 10; // classes at first
const MAX_BYTES = 100e6; // of a file

const $ = (id) => document.getElementById(id);

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

const beside = (name) => new URL(name, document.baseURI).href;

// The answer

let allShown = false, answered = null;

// state: loading, ready, busy, answered or refused
function say(text, state) {
  $("status").textContent = text;
  $("answer").dataset.state = state;
}

function refuse(text) {
  clearAnswer();
  say(text, "refused");
}

function showAnswer(answer) {
  answered = answer;
  const order = [...answer.probabilities.keys()];
  // A sort keeps the order of equal ones, as that of `discern predict` does.
  order.sort((one, other) => answer.probabilities[other] - answer.probabilities[one]);
  const isDefined = answer.probabilities.every(Number.isFinite);
  const shown = isDefined ? order.slice(0, allShown ? undefined : SHOWN) : [];
  $("bars").replaceChildren(...shown.map((number) => bar(DATA.classes[number], answer.probabilities[number])));
  $("more").hidden = !isDefined || order.length <= SHOWN;
  $("more").textContent = allShown ? `The first ${SHOWN}` : `All ${order.length.toLocaleString("en")} classes`;
  $("more").setAttribute("aria-expanded", String(allShown));
  showSeen(answer);
  // On a phone it may be above; a drawing, of which more lines may follow, stays in view.
  if (!answer.isDrawing) $("answer").scrollIntoView({ block: "nearest" });
  if (isDefined) say(`${DATA.classes[order[0]]}, ${percent(answer.probabilities[order[0]])}`, "answered");
  else say("The model’s output is undefined (NaN) for this picture.", "refused");
}

function bar(name, probability) {
  const part = element("span", { class: "part" });
  part.style.width = `${100 * probability}%`;
  return element("li", { "data-probability": probability },
    element("bdi", { class: "name" }, name), " ", element("span", { class: "share" }, percent(probability)),
    element("span", { class: "track", "aria-hidden": "true" }, part));
}

// The pixels that the network is given.
function showSeen({ seen, inverted, coloured, size, isDrawing, seconds }) {
  const [channels, height, width] = DATA.card.shape;
  const pixels = new ImageData(width, height);
  for (let at = 0; at < width * height; at++) {
    for (let part = 0; part < 3; part++) pixels.data[4 * at + part] = seen[channels * at + Math.min(part, channels - 1)];
    pixels.data[4 * at + 3] = 255;
  }
  $("seen-pixels").width = width;
  $("seen-pixels").height = height;
  $("seen-pixels").getContext("2d").putImageData(pixels, 0, 0);
  $("seen-pixels").classList.toggle("tiny", width < 100);
  const said = [`${width} × ${height} pixels, ${channels === 1 ? "grey" : "in colour"}`];
  if (isDrawing) said.push(DATA.drawing.description);
  else if (size[0] !== width || size[1] !== height) said.push(`scaled and cut at the centre from ${size.map((side) => side.toLocaleString("en")).join(" × ")}`);
  if (coloured && channels === 1) said.push("its colours as grey, for the model knows no colours");
  if (inverted) said.push($("invert").value === "auto" ? "inverted, for it is dark on light" : "inverted");
  $("seen-text").textContent = `${said.join("; ")}. Classified in ${seconds.toFixed(seconds < 1 ? 2 : 1)} s on this device.`;
  $("seen").hidden = false;
}

function clearAnswer() {
  answered = null;
  $("bars").replaceChildren();
  $("more").hidden = $("seen").hidden = true;
}

$("more").addEventListener("click", () => { allShown = !allShown; showAnswer(answered); });

// The worker

let worker, latest = 0, isReady = false, waiting = null;

const HANDLERS = {
  progress({ loaded, total }) {
    $("loading").value = loaded / total;
    const mega = (count) => (count / 1e6).toFixed(1);
    $("loaded").textContent = `Loading the model: ${mega(loaded)} of ${mega(total)} MB`;
  },
  ready() {
    isReady = true;
    $("load").hidden = true;
    if (waiting) ask(waiting);
    else say("Ready for a picture.", "ready");
    // Its copy of the files is for when there is no connection.
    if (navigator.serviceWorker) navigator.serviceWorker.register(beside("service-worker.js")).catch(() => {});
  },
  answer(message) {
    if (message.id === latest) showAnswer({ ...message, isDrawing: asked.isDrawing });
  },
  refused({ id, message }) {
    if (id === undefined) $("load").hidden = true;
    if (id === undefined || id === latest) refuse(message);
  },
  failed({ id, message }) {
    const what = isReady ? "The picture could not be classified" : "This browser cannot run the model";
    HANDLERS.refused({ id: isReady ? id : undefined, message: `${what}: ${message}` });
  },
};

function start() {
  const code = new Blob([$("worker").textContent], { type: "text/javascript" });
  worker = new Worker(URL.createObjectURL(code), { type: "module" });
  worker.addEventListener("message", ({ data }) => HANDLERS[data.kind](data));
  worker.addEventListener("error", (event) => HANDLERS.failed({ message: event.message || "its worker does not start" }));
  const files = Object.entries(DATA.files).map(([name, file]) => [name, { ...file, url: beside(file.name) }]);
  worker.postMessage({ kind: "load", card: DATA.card, files: Object.fromEntries(files) });
}

let asked = null;

// question: {source, invert, isDrawing}
function ask(question) {
  asked = question;
  latest++;
  if (!isReady) {
    waiting = question;
    return;
  }
  waiting = null;
  say("Classifying …", "busy");
  worker.postMessage({ kind: "classify", id: latest, source: question.source, invert: question.invert() });
}

// A file, from wherever it comes

let preview = null;

function take(file) {
  if (!file) return;
  if (file.size > MAX_BYTES) {
    refuse(`The file has ${(file.size / 1e6).toFixed(0)} MB, more than the ${MAX_BYTES / 1e6} that this page takes.`);
    return;
  }
  if (preview) URL.revokeObjectURL(preview);
  preview = URL.createObjectURL(file);
  $("preview").src = preview;
  $("preview").hidden = false;
  $("drop").classList.add("filled");
  ask({ source: file, invert: () => $("invert")?.value ?? "never", isDrawing: false });
}
$("preview").addEventListener("error", () => { $("preview").hidden = true; $("drop").classList.remove("filled"); });

$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => { take($("file").files[0]); $("file").value = ""; });
$("invert")?.addEventListener("change", () => { if (asked && !asked.isDrawing) ask(asked); });

function pictureIn(transfer) {
  return [...transfer.files].find((file) => file.type.startsWith("image/")) ?? transfer.files[0];
}

let depth = 0;
const hasFiles = (event) => [...event.dataTransfer.types].some((type) => type === "Files" || type === "text/uri-list");
addEventListener("dragenter", (event) => { if (hasFiles(event)) { depth++; $("drop").classList.add("over"); } });
addEventListener("dragleave", (event) => { if (hasFiles(event) && --depth <= 0) { depth = 0; $("drop").classList.remove("over"); } });
addEventListener("dragover", (event) => { if (hasFiles(event)) event.preventDefault(); });
addEventListener("drop", (event) => {
  depth = 0;
  $("drop").classList.remove("over");
  if (!hasFiles(event)) return;
  event.preventDefault();
  const file = pictureIn(event.dataTransfer);
  if (file) take(file);
  else refuse("What was dropped is an address and not a file, and this page fetches nothing; save the picture and drop the file.");
});

addEventListener("paste", (event) => {
  const file = pictureIn(event.clipboardData);
  if (file) { event.preventDefault(); take(file); }
  else refuse("There is no picture in the clipboard.");
});
$("paste").addEventListener("click", async () => {
  try {
    for (const item of await navigator.clipboard.read()) {
      const type = item.types.find((each) => each.startsWith("image/"));
      if (type) return take(await item.getType(type));
    }
    refuse("There is no picture in the clipboard.");
  } catch {
    refuse("This browser does not let a button read the clipboard here; press Ctrl+V (⌘V), or allow it.");
  }
});

// The camera

const NO_CAMERA = {
  NotAllowedError: "The camera may not be used here; allow it for this page in the browser’s settings.",
  NotFoundError: "No camera was found.",
  NotReadableError: "The camera cannot be used now; perhaps another program uses it.",
};
let stream = null;

$("camera").addEventListener("click", async () => {
  if (!navigator.mediaDevices?.getUserMedia) {
    refuse("Browsers allow the camera only on pages from https:// or from localhost.");
    return;
  }
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } }, audio: false });
  } catch (error) {
    refuse(NO_CAMERA[error.name] ?? `The camera cannot be used: ${error.message}`);
    return;
  }
  $("video").srcObject = stream;
  $("viewfinder").showModal();
});
$("shoot").addEventListener("click", () => {
  const { videoWidth: width, videoHeight: height } = $("video");
  if (!width) return;
  const canvas = element("canvas", { width, height });
  canvas.getContext("2d").drawImage($("video"), 0, 0);
  canvas.toBlob(take, "image/png");
  $("viewfinder").close();
});
$("close").addEventListener("click", () => $("viewfinder").close());
$("viewfinder").addEventListener("close", () => {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = $("video").srcObject = null;
});

// A drawing

if (DATA.drawing) {
  const drawing = new Drawing($("canvas"), DATA.drawing, () => {
    $("clear").disabled = $("undo").disabled = drawing.isEmpty;
    if (drawing.isEmpty) {
      latest++;
      clearAnswer();
      say("Ready for a picture.", "ready");
    } else {
      ask({ source: drawing.picture(), invert: () => "never", isDrawing: true });
    }
  });
  $("clear").addEventListener("click", () => { drawing.clear(); $("canvas").focus(); });
  $("undo").addEventListener("click", () => drawing.undo());
}

// Light and dark

function isDark() {
  const { theme } = document.documentElement.dataset;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}
$("theme").addEventListener("click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; });

// Some browsers change a little of what a page reads of a canvas, against being recognized.
function isNoisy() {
  const canvas = element("canvas", { width: 16, height: 16 });
  const context = canvas.getContext("2d");
  for (let at = 0; at < 256; at++) {
    context.fillStyle = `rgb(${at} ${255 - at} 128)`;
    context.fillRect(at % 16, at >> 4, 1, 1);
  }
  const { data } = context.getImageData(0, 0, 16, 16);
  for (let at = 0; at < 256; at++) {
    if (data[4 * at] !== at || data[4 * at + 1] !== 255 - at || data[4 * at + 2] !== 128) return true;
  }
  return false;
}

if (location.protocol === "file:") {
  $("load").hidden = true;
  refuse("This page works from a web server, not from a file: run `python -m http.server` in its folder and open http://localhost:8000.");
} else {
  $("noisy").hidden = !isNoisy();
  start();
}
