// A scatter plot: accuracy against what a network costs, on a logarithmic axis.

const NAMESPACE = "http://www.w3.org/2000/svg";
const HEIGHT = 300;
const MARGIN = { left: 44, right: 16, top: 24, bottom: 44 };
const LINE = 15; // labels are this far apart, at least
const GAP = 8; // between the numbers of an axis

function add(parent, name, attributes, text = "") {
  const node = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.textContent = text;
  parent.append(node);
  return node;
}

/** 1, 2 and 5 times the powers of ten from `low` to `high`. */
function ticks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++) {
    found.push(...[1, 2, 5].map((digit) => digit * 10 ** power));
  }
  return found.filter((tick) => low <= tick && tick <= high);
}

/**
 * Draw into `svg`, as wide as it stands on the page.
 *
 * `points` have name, accuracy and cost, and may have low and high; `axis` is the label of the
 * horizontal axis, and `format` writes a cost.
 */
export function draw(svg, points, axis, format) {
  const width = svg.clientWidth;
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  svg.replaceChildren();
  const right = width - MARGIN.right;
  const bottom = HEIGHT - MARGIN.bottom;

  const costs = points.flatMap((point) => [point.low ?? point.cost, point.high ?? point.cost]);
  const [cheap, dear] = [Math.min(...costs) / 1.3, Math.max(...costs) * 1.3];
  const accuracies = points.map((point) => point.accuracy);
  const worst = Math.floor(2 * Math.min(...accuracies) - 0.2) / 2;
  const best = Math.ceil(2 * Math.max(...accuracies) + 0.2) / 2;
  const x = (cost) =>
    MARGIN.left + (Math.log(cost / cheap) / Math.log(dear / cheap)) * (right - MARGIN.left);
  const y = (accuracy) =>
    bottom - ((accuracy - worst) / (best - worst)) * (bottom - MARGIN.top);

  for (let tick = worst; tick <= best; tick += 0.5) {
    const height = y(tick);
    add(svg, "line", { class: "grid", x1: MARGIN.left, x2: right, y1: height, y2: height });
    const place = { class: "tick", x: MARGIN.left - 6, y: height + 4, "text-anchor": "end" };
    add(svg, "text", place, tick.toFixed(1));
  }
  let free = MARGIN.left; // where the next label of the axis has room
  for (const tick of ticks(cheap, dear)) {
    const place = { class: "tick", x: x(tick), y: bottom + 18, "text-anchor": "middle" };
    const label = add(svg, "text", place, format(tick));
    const half = label.getComputedTextLength() / 2;
    add(svg, "line", { class: "grid", x1: x(tick), x2: x(tick), y1: bottom, y2: bottom + 5 });
    if (x(tick) - half < free || x(tick) + half > width) label.remove();
    else free = x(tick) + half + GAP;
  }
  add(svg, "text", { class: "title", x: 0, y: 12 }, "accuracy on the test images (%)");
  add(svg, "text", { class: "title", x: right, y: HEIGHT - 6, "text-anchor": "end" }, axis);

  const placed = [];
  for (const point of [...points].sort((a, b) => a.accuracy - b.accuracy)) {
    const [px, py] = [x(point.cost), y(point.accuracy)];
    if (point.low) {
      add(svg, "line", { class: "spread", x1: x(point.low), x2: x(point.high), y1: py, y2: py });
    }
    add(svg, "circle", { class: "point", cx: px, cy: py, r: 5 });
    // The name stands above its point, to the right, or as far as the drawing allows.
    const name = add(svg, "text", {}, point.name);
    const length = name.getComputedTextLength();
    const left = Math.min(px - 4, width - length);
    let height = py - 10;
    for (const other of placed) {
      const apart = left > other.left + other.length || left + length < other.left;
      if (!apart && other.height - height < LINE) height = other.height - LINE;
    }
    placed.push({ left, length, height });
    name.setAttribute("x", left);
    name.setAttribute("y", height);
  }
  const told = points.map((point) => {
    const spread = point.low ? ` (${format(point.low)} to ${format(point.high)})` : "";
    return `${point.name}: ${format(point.cost)}${spread}, ${point.accuracy.toFixed(2)} %`;
  });
  svg.setAttribute("aria-label", `Accuracy against ${axis}. ${told.join("; ")}.`);
}
