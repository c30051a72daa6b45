// The networks: the runtime, their files, their logits and their times. Nothing here knows the page.

const FOLDER = new URL("../networks/", import.meta.url);
const RUNTIME = new URL("../vendor/onnxruntime-web/", import.meta.url);

export const WARM_UP = 20; // runs of each network before any is timed
export const BLOCKS = 25;
const BLOCK_MS = 20; // a block is longer than the clock's step, which is 1 ms in some browsers
const FEWEST_RUNS = 4; // of a block: a hundred in all
const MOST_RUNS = 50;

let ort; // the runtime, once it is asked for

/** Fetch a file; errors say in words what is wrong with it. */
async function get(url) {
  const name = url.pathname.split("/").pop();
  let response;
  try {
    response = await fetch(url);
  } catch {
    throw new Error(`${name} could not be fetched: is there a connection?`);
  }
  if (!response.ok) throw new Error(`${name} is missing (the server answers ${response.status}).`);
  return response;
}

/** What scripts/demo.py wrote: classes, normalization, networks, test images. */
export async function describe() {
  return (await get(new URL("demo.json", FOLDER))).json();
}

/** Fetch and start ONNX Runtime Web: one thread, since more need headers that few servers send. */
export async function startRuntime() {
  const wasm = await get(new URL("ort-wasm-simd-threaded.wasm", RUNTIME));
  const module = await import(new URL("ort.wasm.bundle.min.mjs", RUNTIME));
  module.env.wasm.numThreads = 1;
  module.env.wasm.wasmBinary = await wasm.arrayBuffer();
  ort = module;
}

export const runtimeVersion = () => ort.env.versions.web;

/** SHA-256 in hexadecimal digits, or null where a page may not compute it (plain http). */
async function checksum(content) {
  if (!globalThis.crypto?.subtle) return null;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Network {
  /** `entry` is one of demo.json's networks; `file` says which mean and deviation they all take. */
  constructor(entry, { mean, std }) {
    Object.assign(this, entry);
    this.mean = Math.fround(mean);
    this.std = Math.fround(std);
    this.session = null;
    this.times = null; // of the last measurement
  }

  /** Fetch, check and open the file. */
  async load() {
    const url = new URL(this.file, FOLDER);
    url.search = this.sha256.slice(0, 8); // a new file is not taken for an old one in the cache
    const content = await (await get(url)).arrayBuffer();
    const found = await checksum(content);
    if (content.byteLength !== this.bytes || (found ?? this.sha256) !== this.sha256) {
      throw new Error(`${this.file} is damaged: its bytes are not those that were published.`);
    }
    this.session = await ort.InferenceSession.create(content, { executionProviders: ["wasm"] });
  }

  /** The input for a picture of 784 bytes, rounded to float32 at each step as PyTorch does. */
  #input(pixels) {
    const values = Float32Array.from(pixels, (byte) => {
      const centered = Math.fround(Math.fround(byte / 255) - this.mean);
      return centered / this.std;
    });
    return { input: new ort.Tensor("float32", values, [1, 1, 28, 28]) };
  }

  async logits(pixels) {
    const { logits } = await this.session.run(this.#input(pixels));
    return [...logits.data];
  }

  /** Milliseconds that each of `runs` runs takes, on average. */
  async time(pixels, runs) {
    const input = this.#input(pixels);
    const start = performance.now();
    for (let run = 0; run < runs; run++) await this.session.run(input);
    return (performance.now() - start) / runs;
  }
}

export function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - largest));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

/** The value below which a share of the sorted numbers lies, interpolated. */
function quantile(sorted, share) {
  const place = share * (sorted.length - 1);
  const below = Math.floor(place);
  const above = Math.ceil(place);
  return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
}

/** Let the page show what has changed, and the reader act. */
const pause = () => new Promise((resolve) => setTimeout(resolve));

/**
 * Time all networks in turn, block by block, so that a device that slows down slows all of them.
 * Sets `times` of each: median, low and high (10 and 90 %) of the blocks, and the runs of a block.
 */
export async function measure(networks, pixels, progress) {
  const runs = new Map();
  for (const network of networks) {
    const rough = await network.time(pixels, WARM_UP);
    const wanted = Math.ceil(BLOCK_MS / rough);
    runs.set(network, Math.min(Math.max(wanted, FEWEST_RUNS), MOST_RUNS));
    await pause();
  }
  const blocks = new Map(networks.map((network) => [network, []]));
  for (let block = 0; block < BLOCKS; block++) {
    for (let turn = 0; turn < networks.length; turn++) {
      const network = networks[(block + turn) % networks.length];
      blocks.get(network).push(await network.time(pixels, runs.get(network)));
      await pause();
    }
    progress((block + 1) / BLOCKS);
  }
  for (const network of networks) {
    const sorted = blocks.get(network).sort((a, b) => a - b);
    const [low, median, high] = [0.1, 0.5, 0.9].map((share) => quantile(sorted, share));
    network.times = { low, median, high, runs: runs.get(network) };
  }
}
