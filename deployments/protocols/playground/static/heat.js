// What the model looked at, laid over the picture.

import { byId, element } from "./dom.js";

// From nothing to much: dark to light, so that it can be read without colours, too. Red, green, blue and opacity.
const SCALE = [
  [0, [30, 15, 70, 0.55]],
  [0.35, [120, 30, 130, 0.5]],
  [0.65, [235, 90, 60, 0.5]],
  [1, [255, 235, 120, 0.62]],
];
// Where the service cannot tell which part the model has seen: the heat has no other place to be.
const ALL = { top: 0, left: 0, height: 1, width: 1 };
// What the crop left out, which the model has not seen.
const UNSEEN = "rgb(10 12 16 / 0.72)";
// Of the greatest value: what counts as looked at, in words.
const LOOKED_AT = 0.5;
const ROWS = ["top", "middle", "bottom"];
const COLUMNS = ["left", "centre", "right"];

export function hideHeat() {
  byId("heat").hidden = true;
  byId("legend").hidden = true;
}

/** Shows the answer of POST explain over the preview; returns what it says, as a sentence. `area`: in shares, or null. */
export function showHeat({ model, version, label, heat, area }) {
  const canvas = byId("heat");
  const { width, height } = byId("preview");
  Object.assign(canvas, { width, height, hidden: false });
  const context = canvas.getContext("2d");
  context.fillStyle = UNSEEN;
  context.fillRect(0, 0, width, height);
  const { top, left, height: tall, width: wide } = area ?? ALL;
  const seen = [left * width, top * height, wide * width, tall * height];
  context.clearRect(...seen);
  // Small maps are smoothed, as the features that they are made of overlap.
  Object.assign(context, { imageSmoothingEnabled: true, imageSmoothingQuality: "high" });
  context.drawImage(coloured(heat), ...seen);
  const sentence = `For “${label}”, ${model}, version ${version}, looked ${whereabouts(heat)}.`;
  byId("legend").replaceChildren(element("p", {}, sentence), scaleBar());
  byId("legend").hidden = false;
  return sentence;
}

function coloured({ height, width, values }) {
  const canvas = element("canvas", { width, height });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  values.flat().forEach((value, index) => image.data.set(colourOf(value), 4 * index));
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Red, green, blue and opacity from 0 to 255. */
function colourOf(value) {
  const above = Math.max(1, SCALE.findIndex(([bound]) => value <= bound));
  const [[low, from], [high, to]] = [SCALE[above - 1], SCALE[above]];
  const share = Math.min(1, Math.max(0, (value - low) / (high - low)));
  const mixed = from.map((channel, index) => channel + share * (to[index] - channel));
  return [...mixed.slice(0, 3), 255 * mixed[3]];
}

/** Of the heat's own area: in which third most of it is, and how much of the area it covers. */
function whereabouts({ height, width, values }) {
  const cells = values.flatMap((row, y) => row.map((value, x) => ({ value, x: (x + 0.5) / width, y: (y + 0.5) / height })));
  const greatest = Math.max(...cells.map(({ value }) => value));
  const hot = cells.filter(({ value }) => value > 0 && value >= LOOKED_AT * greatest);
  if (!hot.length) return "at no place in particular";
  const weight = hot.reduce((sum, { value }) => sum + value, 0);
  const mean = (axis) => hot.reduce((sum, cell) => sum + cell.value * cell[axis], 0) / weight;
  const third = (share, names) => names[Math.min(2, Math.floor(3 * share))];
  const place = [third(mean("y"), ROWS), third(mean("x"), COLUMNS)].join(" ");
  return `mostly at the ${place === "middle centre" ? "centre" : place}, at ${Math.round((100 * hot.length) / cells.length)} % of what it saw`;
}

function scaleBar() {
  return element("p", { className: "hint scale" }, "little", element("span", { className: "gradient", "aria-hidden": "true" }), "much");
}
