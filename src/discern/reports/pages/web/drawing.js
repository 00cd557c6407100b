// A canvas to draw on, by pointer or keys, and the picture that is made of the drawing.

const SIDE = 280; // of the canvas, in its own units
const INK = 24; // the width of a line
const STEP = SIDE / 28; // of the pen that keys move
const MAX_GROWTH = 4; // of a small drawing, so that a dot stays one

class Drawing {
  // handling: {box, centred}: the drawing is scaled to a square of `box` of the side, and its mass is put at the centre; changed is called after each line
  constructor(canvas, handling, changed) {
    this.canvas = canvas;
    this.handling = handling;
    this.changed = changed;
    this.lines = [];
    this.line = null;
    this.pen = { x: SIDE / 2, y: SIDE / 2, isDown: false };
    canvas.width = canvas.height = SIDE;
    this.byPointer();
    this.byKeys();
    this.show();
  }

  get isEmpty() {
    return this.lines.length === 0;
  }

  clear() {
    this.lines = [];
    this.pen.isDown = false;
    this.ended();
  }

  undo() {
    this.lines.pop();
    this.pen.isDown = false;
    this.ended();
  }

  ended() {
    this.line = null;
    this.show();
    this.changed();
  }

  byPointer() {
    const { canvas } = this;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [((event.clientX - box.left) * SIDE) / box.width, ((event.clientY - box.top) * SIDE) / box.height];
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || this.line) return;
      canvas.setPointerCapture(event.pointerId);
      this.pen.isDown = false;
      this.pointer = event.pointerId;
      this.begin(at(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.line || event.pointerId !== this.pointer) return;
      const events = event.getCoalescedEvents?.() ?? [];
      for (const one of events.length ? events : [event]) this.line.push(at(one));
      this.show();
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => { if (this.line && event.pointerId === this.pointer) this.ended(); });
    }
  }

  byKeys() {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    this.canvas.addEventListener("keydown", (event) => {
      const { pen } = this;
      const move = moves[event.key];
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      if (move) {
        pen.x = Math.min(SIDE - 1, Math.max(0, pen.x + STEP * move[0]));
        pen.y = Math.min(SIDE - 1, Math.max(0, pen.y + STEP * move[1]));
        if (pen.isDown) this.line.push([pen.x, pen.y]);
      } else if (event.key === " " && event.repeat) {
        // A key that is held is one press.
      } else if (event.key === " ") {
        pen.isDown = !pen.isDown;
        if (pen.isDown) this.begin([pen.x, pen.y]);
        else this.ended();
      } else if (event.key === "Delete" || event.key === "Backspace") {
        this.clear();
      } else {
        return;
      }
      event.preventDefault();
      this.show();
    });
    this.canvas.addEventListener("blur", () => { if (this.pen.isDown) { this.pen.isDown = false; this.ended(); } else this.show(); });
    this.canvas.addEventListener("focus", () => this.show());
  }

  begin(point) {
    this.line = [point];
    this.lines.push(this.line);
    this.show();
  }

  show() {
    const context = this.canvas.getContext("2d");
    this.draw(context, { scale: 1, x: 0, y: 0 });
    // Where keys would draw; a pointer shows where it is.
    if (!this.canvas.matches(":focus-visible")) return;
    context.strokeStyle = this.pen.isDown ? "#ff9a57" : "#69b7f0";
    context.lineWidth = 3;
    context.beginPath();
    context.arc(this.pen.x, this.pen.y, INK / 2, 0, 2 * Math.PI);
    context.stroke();
  }

  // The lines, white on black, scaled and then moved; the ink keeps its width.
  draw(context, { scale, x, y }) {
    context.fillStyle = "#000";
    context.fillRect(0, 0, SIDE, SIDE);
    context.strokeStyle = "#fff";
    context.lineWidth = INK;
    context.lineCap = context.lineJoin = "round";
    for (const line of this.lines) {
      context.beginPath();
      const [first, ...rest] = line.map((point) => [scale * point[0] + x, scale * point[1] + y]);
      context.moveTo(...first);
      for (const point of rest.length ? rest : [first]) context.lineTo(...point);
      context.stroke();
    }
  }

  // The pixels of the picture that is classified.
  picture() {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = SIDE;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const { box, centred } = this.handling;
    const place = box ? this.inBox(SIDE * box) : { scale: 1, x: 0, y: 0 };
    this.draw(context, place);
    if (centred) {
      const [x, y] = centreOfMass(context.getImageData(0, 0, SIDE, SIDE).data);
      this.draw(context, { ...place, x: place.x + SIDE / 2 - x, y: place.y + SIDE / 2 - y });
    }
    return context.getImageData(0, 0, SIDE, SIDE);
  }

  // The scale and place with which the drawing fills a box at the centre.
  inBox(side) {
    const points = this.lines.flat();
    const [left, right] = ends(points.map((point) => point[0]));
    const [top, bottom] = ends(points.map((point) => point[1]));
    const scale = Math.min((side - INK) / Math.max(right - left, bottom - top, 1), MAX_GROWTH);
    return { scale, x: SIDE / 2 - (scale * (left + right)) / 2, y: SIDE / 2 - (scale * (top + bottom)) / 2 };
  }
}

function ends(values) {
  return values.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)], [Infinity, -Infinity]);
}

function centreOfMass(data) {
  let mass = 0, x = 0, y = 0;
  for (let at = 0; at < data.length; at += 4) {
    const column = (at / 4) % SIDE;
    mass += data[at];
    x += data[at] * (column + 0.5);
    y += data[at] * ((at / 4 - column) / SIDE + 0.5);
  }
  return mass ? [x / mass, y / mass] : [SIDE / 2, SIDE / 2];
}
