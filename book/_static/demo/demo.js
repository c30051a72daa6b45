// The page demo/: it wires the picture, the networks and the chart to what stands in index.md.
//
// For tests and for the curious: `await window.demo` gives { networks, picture }, and
// `networks[i].logits(pixels)` the ten logits of a network that is loaded.

import { draw } from "./chart.js";
import * as runtime from "./networks.js";
import { Picture, SIZE } from "./picture.js";

const WAIT_MS = 150; // after the last change of the picture, before the networks are asked
const TOP = 3; // classes shown of each answer

const $ = (id) => document.getElementById(`demo-${id}`);
const write = (value, options) => value.toLocaleString("en", { useGrouping: false, ...options });
const digits = (value, count) => write(value, { maximumSignificantDigits: count });
const exact = (ms) => write(ms, { minimumSignificantDigits: 3, maximumSignificantDigits: 3 });
const formatBytes = (n) => (n < 999_500 ? `${digits(n / 1e3, 3)} kB` : `${digits(n / 1e6, 3)} MB`);
const formatMs = (ms) => `${exact(ms)} ms`;
const formatShare = (share) => `${(100 * share).toFixed(1)} %`;

/** Tell a screen reader. */
const say = (text) => ($("says").textContent = text);

/** Say on the page, and aloud, what went wrong. */
const complain = (text) => ($("error").textContent = text);

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** One job after the other: the runtime computes one thing at a time. */
let last = Promise.resolve();
function inTurn(job) {
  const done = last.then(job);
  last = done.catch(() => {});
  return done;
}

// ---- The table ----

/** A row for a network; what changes in it can be reached as `row.answer` and `row.time`. */
function addRow(network) {
  const note = `${network.note}; ${digits(network.macs / 1e6, 3)} million MACs`;
  // The roles are those that the elements have; a table in blocks, as on a phone, would lose them.
  const cell = (label, ...children) =>
    element("td", { role: "cell", "data-label": label }, ...children);
  const row = element(
    "tr",
    { role: "row", "data-network": network.id },
    element(
      "th",
      { role: "rowheader", scope: "row" },
      network.name,
      element("span", { class: "note" }, note),
    ),
    cell("File", formatBytes(network.bytes)),
    cell("Test accuracy", `${network.accuracy.toFixed(2)} %`),
    cell("Time", "–", element("span", { class: "note" }, "\u00a0")), // as high as with a time
    cell("Answer", "–"),
  );
  $("rows").append(row);
  const [, , , time, answer] = row.cells;
  return { time, answer };
}

function showAnswer(cell, ranked) {
  const items = ranked.slice(0, TOP).map(({ name, share }) => {
    const bar = element("span", { class: "bar" });
    bar.style.setProperty("--share", share);
    return element("li", {}, element("span", {}, name), bar, element("span", {}, formatShare(share)));
  });
  cell.replaceChildren(element("ol", { class: "answer" }, ...items));
}

function showTimes(cell, { low, median, high }) {
  const spread = `${exact(low)} to ${exact(high)}`;
  cell.replaceChildren(formatMs(median), element("span", { class: "note" }, spread));
}

// ---- The result as text ----

function asText(page) {
  const heads = ["network", "bytes", "accuracy %", "answer", "probability", "median ms", "10 %", "90 %"];
  const lines = page.networks.map((network) => {
    const { answer, times } = network;
    return [
      network.name,
      `${network.bytes}`,
      network.accuracy.toFixed(2),
      answer ? answer.name : "–",
      answer ? formatShare(answer.share) : "–",
      ...["median", "low", "high"].map((key) => (times ? exact(times[key]) : "–")),
    ];
  });
  const widths = heads.map((head, i) => Math.max(...[head, ...lines.map((l) => l[i])].map((t) => t.length)));
  const table = [heads, ...lines].map((line) => line.map((t, i) => t.padEnd(widths[i])).join("  ").trimEnd());
  const runs = page.networks.filter((n) => n.times).map((n) => `${n.name} ${n.times.runs}`);
  return [
    `${document.title}, ${new Date().toISOString().slice(0, 10)}`,
    `Browser: ${navigator.userAgent}; ${navigator.hardwareConcurrency} logical processors`,
    `ONNX Runtime Web ${runtime.runtimeVersion()}, WebAssembly, 1 thread`,
    `Picture: ${$("caption").textContent}`,
    ...(runs.length
      ? [
          `Times: ${runtime.BLOCKS} blocks of each network in turn, after ${runtime.WARM_UP} runs;` +
            ` runs in a block: ${runs.join(", ")}`,
        ]
      : []),
    "",
    ...table,
    "",
  ].join("\n");
}

async function copy(text) {
  const box = $("text");
  try {
    await navigator.clipboard.writeText(text);
    say("The result is on the clipboard.");
    $("copied").textContent = "Copied.";
  } catch {
    box.value = text;
    box.hidden = false;
    box.focus();
    box.select();
    $("copied").textContent = "The browser does not let this page copy: copy the text below.";
  }
}

// ---- The page ----

class Page {
  constructor(description) {
    this.classes = description.classes;
    this.networks = description.networks.map((entry) => new runtime.Network(entry, description));
    this.rows = new Map(this.networks.map((network) => [network, addRow(network)]));
    this.picture = new Picture($("canvas"), $("cursor"), (what) => this.#changed(what), say);
    this.photo = null;
    this.#addImages(description.images);
    this.#connect();
    this.#drawChart();
    new ResizeObserver(() => this.#drawChart()).observe($("chart"));
  }

  get ready() {
    return this.networks.filter((network) => network.session);
  }

  #addImages({ labels, pixels }) {
    const bytes = Uint8Array.from(atob(pixels), (letter) => letter.charCodeAt(0));
    const canvas = element("canvas", { width: SIZE, height: SIZE });
    const context = canvas.getContext("2d");
    labels.forEach((label, i) => {
      const own = bytes.subarray(i * SIZE * SIZE, (i + 1) * SIZE * SIZE);
      const image = context.createImageData(SIZE, SIZE);
      own.forEach((byte, j) => image.data.set([byte, byte, byte, 255], 4 * j));
      context.putImageData(image, 0, 0);
      const count = labels.slice(0, i + 1).filter((other) => other === label).length;
      const name = `${this.classes[label]} ${count}`;
      const choose = () => this.picture.set(own, `test image, ${name}`);
      const look = { src: canvas.toDataURL(), alt: name, class: "dark-light", width: SIZE, height: SIZE };
      const button = element("button", { type: "button", title: name }, element("img", look));
      button.addEventListener("click", choose);
      $("images").append(button);
      if (i === 0) choose();
    });
  }

  #connect() {
    $("clear").addEventListener("click", () => this.picture.clear());
    $("file").addEventListener("change", (event) => {
      this.photo = event.target.files[0] ?? null;
      this.#takePhoto();
    });
    $("light").addEventListener("change", () => this.#takePhoto());
    $("load").addEventListener("click", () => this.load());
    $("measure").addEventListener("click", () => this.measure());
    $("copy").addEventListener("click", () => copy(asText(this)));
    for (const axis of document.getElementsByName("demo-axis")) {
      axis.addEventListener("change", () => this.#drawChart());
    }
  }

  async #takePhoto() {
    if (!this.photo) return;
    complain("");
    try {
      await this.picture.setPhoto(this.photo, $("light").checked);
    } catch {
      complain(`${this.photo.name} is no picture that this browser can read.`);
    }
  }

  #changed(what) {
    $("caption").textContent = what;
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.answer(), WAIT_MS);
  }

  /** Ask all networks that are loaded about the picture. */
  async answer() {
    const ready = this.ready;
    if (!ready.length) return;
    if (this.picture.empty) {
      for (const network of ready) {
        network.answer = null;
        this.rows.get(network).answer.replaceChildren("–");
      }
      return;
    }
    const pixels = this.picture.pixels.slice();
    await inTurn(async () => {
      for (const network of ready) {
        const shares = runtime.softmax(await network.logits(pixels));
        const ranked = shares.map((share, i) => ({ name: this.classes[i], share }));
        ranked.sort((a, b) => b.share - a.share);
        network.answer = ranked[0];
        showAnswer(this.rows.get(network).answer, ranked);
      }
    });
    const told = ready.map(({ name, answer }) => `${name}: ${answer.name}, ${formatShare(answer.share)}`);
    say(`${$("caption").textContent}. ${told.join("; ")}.`);
  }

  /** Fetch the runtime and the networks; one that fails says so in its row, the others go on. */
  async load() {
    $("load").disabled = true;
    complain("");
    this.#progress(0, "Loading");
    try {
      await runtime.startRuntime();
    } catch (error) {
      complain(`ONNX Runtime Web did not start. ${error.message} Reload the page to try again.`);
      this.#progress(null);
      return;
    }
    for (const [i, network] of this.networks.entries()) {
      this.#progress((i + 1) / (this.networks.length + 1), "Loading");
      const { answer } = this.rows.get(network);
      try {
        await network.load();
      } catch (error) {
        answer.replaceChildren(element("span", { class: "fault", role: "alert" }, error.message));
      }
    }
    this.#progress(null);
    const count = this.ready.length;
    const size = $("size");
    size.textContent = `${count} of ${this.networks.length} networks are loaded. The picture stays on your device.`;
    if (!count) return;
    say(size.textContent);
    $("measure").disabled = $("copy").disabled = false;
    await this.answer();
  }

  async measure() {
    $("measure").disabled = true;
    this.#progress(0, "Measuring");
    const pixels = this.picture.pixels.slice();
    try {
      await inTurn(() =>
        runtime.measure(this.ready, pixels, (share) => this.#progress(share, "Measuring")),
      );
      for (const network of this.ready) showTimes(this.rows.get(network).time, network.times);
      $("by-time").disabled = false;
      $("by-time").checked = true;
      this.#drawChart();
      const told = this.ready.map(({ name, times }) => `${name}: ${formatMs(times.median)}`);
      say(`Measured. ${told.join("; ")}.`);
    } catch (error) {
      complain(`The measurement stopped. ${error.message}`);
    }
    this.#progress(null);
    $("measure").disabled = false;
  }

  /** Show how far a job has come, or with null that there is none. */
  #progress(share, label = "") {
    const bar = $("progress");
    bar.style.visibility = share === null ? "hidden" : "visible";
    bar.setAttribute("aria-label", label);
    bar.value = share ?? 0;
  }

  #drawChart() {
    const byTime = $("by-time").checked;
    const shown = byTime ? this.networks.filter((network) => network.times) : this.networks;
    const points = shown.map(({ name, accuracy, bytes, times }) =>
      byTime
        ? { name, accuracy, cost: times.median, low: times.low, high: times.high }
        : { name, accuracy, cost: bytes },
    );
    const axis = byTime ? "time on this device" : "size of the file";
    draw($("chart"), points, axis, byTime ? (ms) => `${digits(ms, 3)} ms` : formatBytes);
  }
}

/** Read the description and say what loading would cost, or why nothing can be loaded. */
async function start() {
  const size = $("size");
  try {
    const description = await runtime.describe();
    const page = new Page(description);
    const total = description.networks.reduce((sum, { bytes }) => sum + bytes, 0);
    if (typeof WebAssembly !== "object") {
      complain("This browser has no WebAssembly, or it is switched off: no network can run here.");
    } else if (!description.runtime) {
      complain(
        "This copy of the site was built without ONNX Runtime Web: install npm and build it again.",
      );
    } else {
      $("load").disabled = false;
    }
    const whole = total + (description.runtime?.bytes ?? 0);
    size.textContent = `Nothing is loaded yet. The button fetches ${formatBytes(whole)}, of which the networks are ${formatBytes(total)}; your server may send less, compressed.`;
    return page;
  } catch (error) {
    complain(`The page could not start. ${error.message}`);
    return null;
  }
}

window.demo = start();
