// The strip of live figures: all that the service does, and not only what this page asks.

import { byId, drawn, element, sentenceOf } from "./dom.js";
import { liveFigures } from "./service.js";
import { counted, milliseconds } from "./words.js";

const PERIOD_MS = 2000;
// After a refusal: each look counts as a request of the key's, whose rate may be low.
const PERIOD_AFTER_REFUSAL_MS = 15_000;
const SPARK_HEIGHT = 32;

let timer = null;

/** Looks every PERIOD_MS while somebody can see it. */
export function startLive() {
  document.addEventListener("visibilitychange", look);
  look();
}

async function look() {
  clearTimeout(timer);
  if (document.hidden) return;
  let wait = PERIOD_MS;
  try {
    show(await liveFigures());
  } catch (error) {
    wait = Math.max(PERIOD_AFTER_REFUSAL_MS, 1000 * (error.retryAfterS ?? 0));
    byId("live-said").textContent = `No live figures: ${sentenceOf(error)}`;
    byId("live-said").hidden = false;
  }
  clearTimeout(timer);
  timer = setTimeout(look, wait);
}

function show({ seconds, p50_ms: p50, p99_ms: p99, batch_sizes: sizes, replicas }) {
  byId("live").hidden = false;
  byId("live-said").hidden = true;
  const requests = seconds.reduce((sum, each) => sum + each.requests, 0);
  const failed = seconds.reduce((sum, each) => sum + each.failed, 0);
  const perSecond = requests / Math.max(1, seconds.length);
  byId("figures").replaceChildren(
    figure("Requests per second", perSecond.toFixed(perSecond < 10 ? 1 : 0), spark(seconds), failed ? `${failed} failed` : ""),
    figure("Median time", milliseconds(p50), null, `p99 ${milliseconds(p99)}`),
    figure("Images per batch", averageOf(sizes), histogram(sizes), ""),
    figure("Replicas", String(Object.values(replicas).reduce((sum, count) => sum + count, 0)), replicaList(replicas), ""),
  );
}

function figure(name, value, picture, note) {
  const details = [picture, note && element("span", { className: "hint" }, note)].filter(Boolean);
  return element("div", { className: "figure" }, element("dt", {}, name), element("dd", {}, element("strong", {}, value), ...details));
}

/** A bar for each second, the failed ones of it from the bottom. */
function spark(seconds) {
  const most = Math.max(1, ...seconds.map(({ requests }) => requests));
  const rects = seconds.flatMap(({ requests, failed }, second) => [
    ["requests", requests],
    ["failed", failed],
  ].map(([kind, count]) => {
    const height = (count / most) * SPARK_HEIGHT;
    return drawn("rect", { class: kind, x: second, y: SPARK_HEIGHT - height, width: 0.8, height });
  }));
  return drawn("svg", { class: "spark", viewBox: `0 0 ${seconds.length} ${SPARK_HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" }, ...rects);
}

const entriesOf = (sizes) => Object.entries(sizes).map(([size, count]) => [Number(size), count]).sort(([a], [b]) => a - b);

function averageOf(sizes) {
  const batches = entriesOf(sizes).reduce((sum, [, count]) => sum + count, 0);
  const images = entriesOf(sizes).reduce((sum, [size, count]) => sum + size * count, 0);
  return batches ? (images / batches).toFixed(1) : "–";
}

function histogram(sizes) {
  const entries = entriesOf(sizes);
  const most = Math.max(1, ...entries.map(([, count]) => count));
  const columns = entries.map(([size, count]) => {
    const column = element("span", { className: "column", "aria-hidden": "true" });
    column.style.height = `${(100 * count) / most}%`;
    return element("li", { title: `${count} of ${counted(size, "image")}` }, column, element("small", {}, String(size)));
  });
  return element("ul", { className: "histogram", "aria-label": "Batches by their size" }, ...columns);
}

function replicaList(replicas) {
  return element("ul", { className: "replicas" }, ...Object.entries(replicas).map(([name, count]) => element("li", {}, `${count} ${name}`)));
}
