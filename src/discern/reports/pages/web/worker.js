// The model, in a thread of its own: pictures in, probabilities out. The pixels are those that `discern predict` reads.

const MAX_PIXELS = 50e6; // of a picture
const MAX_MODEL_PIXELS = 2 ** 24; // of what the graph is given, which takes 24 bytes a pixel and more
const MAX_SIDE = 2 ** 14;
const STRIP = 2 ** 20; // pixels that are read at a time

class Refused extends Error {}

let ort, model, prepare, card;

addEventListener("message", async ({ data }) => {
  try {
    if (data.kind === "load") {
      card = data.card;
      await load(data.files);
      postMessage({ kind: "ready" });
    } else {
      const begun = performance.now();
      const answer = await classify(data);
      postMessage({ kind: "answer", id: data.id, seconds: (performance.now() - begun) / 1000, ...answer });
    }
  } catch (error) {
    const refused = error instanceof Refused;
    postMessage({ kind: refused ? "refused" : "failed", id: data.id, message: refused ? error.message : String(error?.message ?? error) });
  }
});

// files: name -> {url, bytes}
async function load(files) {
  const total = Object.values(files).reduce((sum, file) => sum + file.bytes, 0);
  let loaded = 0;
  const fetched = async (name) => fetchWhole(files[name], (count) => postMessage({ kind: "progress", loaded: (loaded += count), total }));
  ort = await import(files.script.url);
  ort.env.wasm.numThreads = 1; // more would need headers that not every host can send
  ort.env.wasm.wasmBinary = (await fetched("binary")).buffer;
  prepare = await ort.InferenceSession.create(await fetched("prepare"), { executionProviders: ["wasm"] });
  model = await ort.InferenceSession.create(await fetched("model"), { executionProviders: ["wasm"] });
}

async function fetchWhole({ url, bytes }, tell) {
  const name = url.split("/").at(-1);
  let response;
  try {
    response = await fetch(url);
  } catch {
    throw new Refused(`${name} cannot be loaded: there is no connection.`);
  }
  if (!response.ok) throw new Refused(`${name} cannot be loaded: the server answers ${response.status}.`);
  const whole = new Uint8Array(bytes);
  const reader = response.body.getReader();
  let at = 0;
  for (;;) {
    const { done, value } = await reader.read().catch(() => { throw new Refused(`${name} cannot be loaded: the connection was closed.`); });
    if (done) break;
    if (at + value.length > bytes) break;
    whole.set(value, at);
    at += value.length;
    tell(value.length);
  }
  if (at !== bytes) throw new Refused(`${name} is not the file of this page: it has not the ${bytes.toLocaleString("en")} bytes that are expected.`);
  return whole;
}

// {source: a file or the pixels of a drawing, invert} -> {probabilities, seen, inverted, size}
async function classify({ source, invert }) {
  const [channels, height, width] = card.shape;
  const picture = source instanceof Blob ? await read(source, channels) : drawn(source, channels);
  const tensor = (pixels, rows, columns) => new ort.Tensor("uint8", pixels, [1, rows, columns, channels]);
  const given = tensor(picture.pixels, picture.height, picture.width);
  const seen = (await prepare.run({ pixels: given })).seen.data;
  // A grey picture, dark on light, is inverted as the model sees it, which has the input's shape.
  const inverted = invert === "always" || (invert === "auto" && channels === 1 && isDarkOnLight(seen, height, width));
  if (inverted) for (let at = 0; at < seen.length; at++) seen[at] = 255 - seen[at];
  const fed = card.fitted ? tensor(seen, height, width) : given;
  const { probabilities } = await model.run({ pixels: fed });
  return { probabilities: probabilities.data, seen, inverted, coloured: picture.coloured, size: picture.size };
}

// Reading

async function read(file, channels) {
  const head = new Uint8Array(await file.slice(0, 32).arrayBuffer());
  const starts = (...bytes) => bytes.every((byte, at) => head[at] === byte);
  if (starts(0x89, 0x50, 0x4e, 0x47) && head[24] === 16) {
    throw new Refused("The picture has 16 bits a value, of which browsers drop half in a way of their own; save it with 8.");
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image" });
  } catch {
    throw new Refused("This is not a picture in a format that this browser reads, or it is damaged.");
  }
  try {
    return pixelsOf(bitmap, channels, starts(0xff, 0xd8, 0xff));
  } finally {
    bitmap.close();
  }
}

// uint8 (H, W, C) of a bitmap, on white; a large JPEG is reduced as discern reduces it.
function pixelsOf(bitmap, channels, isJpeg) {
  const { width, height } = bitmap;
  const shown = `${width.toLocaleString("en")} × ${height.toLocaleString("en")} pixels`;
  if (width * height > MAX_PIXELS || Math.max(width, height) > MAX_SIDE) {
    throw new Refused(`The picture has ${shown}, more than the ${MAX_PIXELS / 1e6} million, or ${MAX_SIDE.toLocaleString("en")} a side, that this page takes; make it smaller.`);
  }
  const most = isJpeg && !card.fitted ? Math.floor(Math.min(width, height) / (2 * card.resize)) : 1;
  const factor = [8, 4, 2].find((each) => each <= most && width % each === 0 && height % each === 0) ?? 1;
  if ((width * height) / factor ** 2 > MAX_MODEL_PIXELS) {
    throw new Refused(`The picture has ${shown}, more than the ${Math.floor(MAX_MODEL_PIXELS / 1e6)} million that this page takes of a picture that it does not reduce; make it smaller.`);
  }
  const rows = Math.min(height, factor * Math.max(1, Math.floor(STRIP / width / factor)));
  const canvas = new OffscreenCanvas(width, rows);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const pixels = new Uint8Array((width * height * channels) / factor ** 2);
  let at = 0, coloured = false;
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, count);
    context.drawImage(bitmap, 0, -top);
    const { data } = context.getImageData(0, 0, width, count);
    coloured ||= isColoured(data);
    const small = factor === 1 ? data : reduced(data, width, count, factor);
    for (let from = 0; from < small.length; from += 4) {
      if (channels === 1) {
        pixels[at++] = grey(small[from], small[from + 1], small[from + 2]);
      } else {
        pixels[at++] = small[from];
        pixels[at++] = small[from + 1];
        pixels[at++] = small[from + 2];
      }
    }
  }
  return { pixels, height: height / factor, width: width / factor, coloured, size: [width, height] };
}

// The means of squares of pixels, rounded, four values a pixel as before.
function reduced(data, width, height, factor) {
  const small = new Uint8Array(data.length / factor ** 2);
  const sums = [0, 0, 0];
  let to = 0;
  for (let row = 0; row < height; row += factor) {
    for (let column = 0; column < width; column += factor) {
      sums.fill(0);
      for (let down = 0; down < factor; down++) {
        for (let at = 4 * ((row + down) * width + column), end = at + 4 * factor; at < end; at += 4) {
          for (let part = 0; part < 3; part++) sums[part] += data[at + part];
        }
      }
      for (let part = 0; part < 3; part++) small[to + part] = Math.round(sums[part] / factor ** 2);
      to += 4;
    }
  }
  return small;
}

function isColoured(data) {
  for (let at = 0; at < data.length; at += 4) {
    if (data[at] !== data[at + 1] || data[at] !== data[at + 2]) return true;
  }
  return false;
}

// As Pillow computes mode L.
function grey(red, green, blue) {
  return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
}

// A drawing is opaque and grey.
function drawn({ data, width, height }, channels) {
  const pixels = new Uint8Array(width * height * channels);
  for (let at = 0; at < pixels.length; at++) pixels[at] = data[4 * Math.floor(at / channels)];
  return { pixels, height, width, coloured: false, size: [width, height] };
}

// As discern.data.pictures.dark_on_light: the median of the outermost pixels is above the mean of those inside.
function isDarkOnLight(seen, height, width) {
  if (height < 3 || width < 3) return false;
  const edge = [];
  let inside = 0;
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const value = seen[row * width + column];
      if (row % (height - 1) && column % (width - 1)) inside += value;
      else edge.push(value);
    }
  }
  edge.sort((one, other) => one - other);
  const half = edge.length >> 1;
  const median = edge.length % 2 ? edge[half] : (edge[half - 1] + edge[half]) / 2;
  return median > inside / ((height - 2) * (width - 2));
}
