// The picture that the networks are asked about: 28 × 28 gray pixels on a canvas, from a test
// image, from the reader's pen or keys, or from a photo.

export const SIZE = 28;
const CELL = 20; // a photo is laid on a square of 28 × 20 pixels, and each cell of it averaged

// How much white the pen leaves at a pixel, by its distance from the pen's center.
const ink = (distance) => 255 * Math.min(Math.max(2 - distance, 0), 1);

const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Picture {
  /**
   * `changed(what)` is called after each change, with what the picture now is; `say(text)` with
   * what somebody who does not see the cursor has to know.
   */
  constructor(canvas, cursor, changed, say) {
    this.canvas = canvas;
    this.cursor = cursor;
    this.changed = changed;
    this.say = say;
    this.pixels = new Uint8Array(SIZE * SIZE);
    this.column = this.row = SIZE / 2;
    canvas.width = canvas.height = SIZE;
    canvas.addEventListener("pointerdown", (event) => this.#penDown(event));
    canvas.addEventListener("pointermove", (event) => this.#penMove(event));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    this.#moveTo(this.column, this.row);
  }

  get empty() {
    return this.pixels.every((byte) => byte === 0);
  }

  /** Replace the whole picture. */
  set(pixels, what) {
    this.pixels.set(pixels);
    this.#finish(what);
  }

  clear() {
    this.set(new Uint8Array(SIZE * SIZE), "empty");
  }

  /** Take a photo: its middle square, shrunk, gray; `light` says that its background is light. */
  async setPhoto(file, light) {
    const photo = await createImageBitmap(file);
    const side = SIZE * CELL;
    const middle = Math.min(photo.width, photo.height);
    const [left, top] = [(photo.width - middle) / 2, (photo.height - middle) / 2];
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = side;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingEnabled = side < middle;
    context.imageSmoothingQuality = "high";
    context.drawImage(photo, left, top, middle, middle, 0, 0, side, side);
    photo.close();
    this.set(boxMeans(context.getImageData(0, 0, side, side).data, light), "photo");
  }

  #finish(what) {
    this.#show();
    this.changed(what);
  }

  #show() {
    const context = this.canvas.getContext("2d");
    const image = context.createImageData(SIZE, SIZE);
    this.pixels.forEach((byte, i) => image.data.set([byte, byte, byte, 255], 4 * i));
    context.putImageData(image, 0, 0);
  }

  #dab(x, y) {
    for (let i = 0; i < this.pixels.length; i++) {
      const distance = Math.hypot((i % SIZE) + 0.5 - x, Math.floor(i / SIZE) + 0.5 - y);
      this.pixels[i] = Math.max(this.pixels[i], ink(distance));
    }
  }

  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * SIZE,
      ((event.clientY - box.top) / box.height) * SIZE,
    ];
  }

  #penDown(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.last = this.#place(event);
    this.#dab(...this.last);
    this.#finish("drawing");
  }

  #penMove(event) {
    if (!event.buttons || !this.canvas.hasPointerCapture(event.pointerId)) return;
    const [x0, y0] = this.last;
    const [x1, y1] = this.#place(event);
    const steps = Math.ceil(Math.hypot(x1 - x0, y1 - y0));
    for (let step = 1; step <= steps; step++) {
      this.#dab(x0 + ((x1 - x0) * step) / steps, y0 + ((y1 - y0) * step) / steps);
    }
    this.last = [x1, y1];
    this.#finish("drawing");
  }

  #moveTo(column, row) {
    this.column = Math.min(Math.max(column, 0), SIZE - 1);
    this.row = Math.min(Math.max(row, 0), SIZE - 1);
    this.cursor.style.left = `${(100 * this.column) / SIZE}%`;
    this.cursor.style.top = `${(100 * this.row) / SIZE}%`;
  }

  #key(event) {
    const direction = KEYS[event.key];
    const paints = event.key === " " || (direction && event.shiftKey);
    const erases = event.key === "Delete" || event.key === "Backspace";
    if (!direction && !paints && !erases) return;
    event.preventDefault();
    if (direction) this.#moveTo(this.column + direction[0], this.row + direction[1]);
    if (paints) this.#dab(this.column + 0.5, this.row + 0.5);
    if (erases) this.pixels[this.row * SIZE + this.column] = 0;
    if (paints || erases) this.#finish("drawing");
    const share = Math.round((100 * this.pixels[this.row * SIZE + this.column]) / 255);
    this.say(`Column ${this.column + 1}, row ${this.row + 1}, ${share} % white`);
  }
}

/**
 * The mean gray of each cell of a square RGBA image, as bytes; inverted if the ground is light,
 * whose brightest cell then stands for white (chapter 7, "On the phone").
 */
function boxMeans(rgba, light) {
  const means = new Float64Array(SIZE * SIZE);
  const side = SIZE * CELL;
  for (let i = 0; i < means.length; i++) {
    let sum = 0;
    for (let j = 0; j < CELL * CELL; j++) {
      const x = (i % SIZE) * CELL + (j % CELL);
      const y = Math.floor(i / SIZE) * CELL + Math.floor(j / CELL);
      const red = 4 * (y * side + x);
      sum += 0.299 * rgba[red] + 0.587 * rgba[red + 1] + 0.114 * rgba[red + 2];
    }
    means[i] = sum / (CELL * CELL);
  }
  const ground = Math.max(...means, 1);
  return Uint8Array.from(means, (mean) => Math.round(light ? 255 - (255 * mean) / ground : mean));
}
