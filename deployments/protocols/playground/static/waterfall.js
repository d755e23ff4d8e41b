// Where the time of a request went, from the Server-Timing header (w3.org/TR/server-timing).

import { bar, element } from "./dom.js";
import { milliseconds } from "./words.js";

// In the order in which a request passes them, with what happens there. A service that tells fewer has a shorter table.
const STAGES = {
  admission: "read and let in",
  preprocess: "decoded, resized and cropped",
  queue: "waited for the model",
  inference: "computed by the model",
  response: "the answer written",
};
const ELSEWHERE = "what no stage accounts for";
const LEAST_SHOWN_MS = 0.01;

/** The durations in milliseconds by name, in the order of the header. Entries that have none are left out. */
export function durations(header) {
  const entries = (header ?? "").split(",").map((entry) => entry.trim().match(/^([\w-]+)\s*;.*?\bdur="?([\d.]+)/i));
  return new Map(entries.filter(Boolean).map(([, name, ms]) => [name, Number(ms)]));
}

/** A table with a bar for each stage, which begins where the one before it ended; `elapsedMs` is the browser's. */
export function waterfall(header, elapsedMs) {
  const timing = durations(header);
  const stages = Object.entries(STAGES).filter(([name]) => timing.has(name)).map(([name, text]) => ({ name, text, ms: timing.get(name) }));
  if (!stages.length) return element("p", { className: "hint" }, `${milliseconds(elapsedMs)} in all; nothing on the way has said where.`);
  const summedMs = stages.reduce((sum, { ms }) => sum + ms, 0);
  const totalMs = Math.max(timing.get("total") ?? 0, summedMs);
  const elsewhere = { name: "elsewhere", text: ELSEWHERE, ms: totalMs - summedMs };
  return table(elsewhere.ms < LEAST_SHOWN_MS ? stages : [...stages, elsewhere], totalMs, elapsedMs);
}

function table(rows, totalMs, elapsedMs) {
  let before = 0;
  const lines = rows.map(({ name, text, ms }) => {
    const line = element(
      "tr", { title: text },
      element("th", { scope: "row" }, element("span", { className: `key ${name}`, "aria-hidden": "true" }), name),
      element("td", { className: "span" }, bar(name, ms / totalMs, before / totalMs)),
      element("td", { className: "number" }, milliseconds(ms)),
    );
    before += ms;
    return line;
  });
  const outside = milliseconds(Math.max(0, elapsedMs - totalMs));
  const caption = element("caption", {}, `${milliseconds(totalMs)} in the service, ${outside} on the way and in the browser`);
  return element("table", { className: "waterfall" }, caption, element("tbody", {}, ...lines));
}
