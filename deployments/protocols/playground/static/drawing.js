// Drawing with a mouse, a finger, a pen or the arrow keys. Every stroke that ends gives a picture.

import { announce, byId } from "./dom.js";

// Of the canvas' 448: what a thick pencil is on a small sheet.
const PEN_WIDTH = 14;
const KEY_STEP = 14;
const CURSOR_RADIUS = 10;
const PAPER = "#ffffff";
const INK = "#20242c";
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Calls `take(file)` with what is drawn, whenever that has changed. */
export function drawingBoard(take) {
  const canvas = byId("paper");
  const context = canvas.getContext("2d");
  let strokes = [];
  let stroke = null;
  let cursor = null;

  function render(withCursor) {
    context.fillStyle = PAPER;
    context.fillRect(0, 0, canvas.width, canvas.height);
    Object.assign(context, { lineWidth: PEN_WIDTH, lineCap: "round", lineJoin: "round", strokeStyle: INK });
    for (const points of strokes) line(context, points);
    if (withCursor && cursor !== null) ring(context, cursor, stroke !== null);
  }

  function give() {
    render(false);
    canvas.toBlob((content) => take(new File([content], "drawing.png", { type: content.type })));
    render(true);
  }

  function begin(point) {
    stroke = [point];
    strokes.push(stroke);
    render(true);
  }

  function extend(point) {
    stroke?.push(point);
    render(true);
  }

  function end() {
    if (stroke === null) return;
    stroke = null;
    give();
  }

  function reset(kept) {
    stroke = null;
    strokes = kept;
    if (strokes.length) give();
    else render(true);
  }

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    cursor = null;
    begin(pointOf(event, canvas));
  });
  canvas.addEventListener("pointermove", (event) => { if (stroke && cursor === null) extend(pointOf(event, canvas)); });
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("keydown", (event) => {
    if (event.key !== " " && !(event.key in ARROWS)) return;
    event.preventDefault();
    cursor ??= [canvas.width / 2, canvas.height / 2];
    if (event.key === " ") togglePen();
    else move(ARROWS[event.key]);
  });

  function togglePen() {
    announce(stroke === null ? "The pen is down." : "The pen is up.");
    if (stroke === null) begin(cursor);
    else end();
  }

  function move([x, y]) {
    const clamp = (value, most) => Math.min(most, Math.max(0, value));
    cursor = [clamp(cursor[0] + x * KEY_STEP, canvas.width), clamp(cursor[1] + y * KEY_STEP, canvas.height)];
    extend(cursor);
  }

  byId("undo").addEventListener("click", () => reset(strokes.slice(0, -1)));
  byId("clear").addEventListener("click", () => reset([]));
  render(true);
}

function pointOf(event, canvas) {
  const { left, top, width, height } = canvas.getBoundingClientRect();
  return [((event.clientX - left) / width) * canvas.width, ((event.clientY - top) / height) * canvas.height];
}

function line(context, [first, ...others]) {
  context.beginPath();
  context.moveTo(...first);
  // A line to where it begins is a dot.
  for (const point of [first, ...others]) context.lineTo(...point);
  context.stroke();
}

function ring(context, [x, y], isDown) {
  context.save();
  Object.assign(context, { lineWidth: 3, strokeStyle: "#3d4fd0", fillStyle: "#3d4fd0" });
  context.beginPath();
  context.arc(x, y, CURSOR_RADIUS, 0, 2 * Math.PI);
  if (isDown) context.fill();
  else context.stroke();
  context.restore();
}
