// One answer: its predictions as bars, where its time went, and what it looked at.

import { nameOf } from "./catalogue.js";
import { bar, element, failure } from "./dom.js";
import { waterfall } from "./waterfall.js";
import { percent } from "./words.js";

/** The list of predictions, the best first. */
export function bars(predictions) {
  return element("ol", { className: "bars" }, ...predictions.map(({ label, probability }) => element(
    "li", { title: `${probability}` },
    element("span", { className: "label" }, label),
    element("span", { className: "number" }, percent(probability)),
    bar("probability", probability),
  )));
}

/** A panel for `target` while it is asked. */
export function pending(target) {
  const body = element("p", { className: "hint" }, "Asking …");
  return element("article", { className: "panel", "aria-busy": "true" }, element("h3", {}, nameOf(target)), body);
}

/** The panel of an answer. `explainButton` is shown below it. */
export function panel(target, { answer, timing, elapsedMs }, explainButton) {
  const name = `${answer.model}, version ${answer.version}`;
  const note = target.label === undefined ? [] : [element("span", { className: "hint" }, ` as ${target.label}`)];
  return element(
    "article", { className: "panel" },
    element("h3", {}, name, ...note),
    bars(answer.predictions),
    waterfall(timing, elapsedMs),
    explainButton,
  );
}

export function failedPanel(target, error) {
  return element("article", { className: "panel" }, element("h3", {}, nameOf(target)), failure(error));
}

/** What two answers have in common, in a sentence. */
export function compared([one, other]) {
  const [first, second] = [one.predictions[0], other.predictions[0]];
  if (first.label !== second.label) return `They disagree: ${first.label} here, ${second.label} there.`;
  const points = Math.abs(first.probability - second.probability) * 100;
  return `Both say ${first.label}; their probabilities are ${points < 0.05 ? "the same to a tenth of a point" : `${points.toFixed(1)} points apart`}.`;
}

/** "shapes, version 1, says heart, 99.9 %." */
export function spoken({ model, version, predictions: [best] }) {
  return `${model}, version ${version}, says ${best.label}, ${percent(best.probability)}.`;
}
