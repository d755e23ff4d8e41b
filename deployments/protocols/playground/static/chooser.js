// The form that says what is asked: a model, a version or label of it, how many predictions, and what to set beside it.

import { catalogue, targetsOf } from "./catalogue.js";
import { byId, element } from "./dom.js";
import { counted } from "./words.js";

const NOTHING = "nothing";

let models = [];

const fields = () => ({ model: byId("model"), version: byId("version"), topK: byId("top-k"), beside: byId("beside") });

/** Asks the service what there is. What was chosen stays chosen, if it is still there. */
export async function refresh() {
  models = await catalogue();
  const { model } = fields();
  fill(model, models.map((each) => option(each.name, each.versions.length ? each.name : `${each.name} (not ready)`, !each.versions.length)));
  if (chosenModel() === undefined || !chosenModel().versions.length) model.value = models.find((each) => each.versions.length)?.name ?? "";
  fillTargets();
}

/** Calls `changed()` whenever something else is asked for. */
export function onChange(changed) {
  byId("chooser").addEventListener("submit", (event) => event.preventDefault());
  byId("chooser").addEventListener("change", (event) => {
    if (event.target.id === "model") fillTargets();
    changed();
  });
}

/** What to ask: one target, or two to compare; none if no model is ready. */
export function targets() {
  const { version, beside } = fields();
  return [version.value, beside.value].filter((value) => value && value !== NOTHING).map((value) => JSON.parse(value));
}

export const topK = () => Number(fields().topK.value);

/** The chosen model, by its name: { name, versions, labels, facts }. */
export function chosenModel() {
  return models.find(({ name }) => name === fields().model.value);
}

export const factsOf = (name) => models.find((each) => each.name === name)?.facts ?? null;

function fillTargets() {
  const { version, beside } = fields();
  const model = chosenModel();
  fill(version, model === undefined ? [] : targetsOf(model).map(targetOption));
  const ready = models.filter((each) => each.versions.length);
  fill(beside, [option(NOTHING, NOTHING), ...ready.flatMap(targetsOf).map(({ target, text }) => targetOption({ target, text: `${target.model}, ${text}` }))]);
  byId("facts").replaceChildren(...(model?.facts ? described(model.facts) : []));
}

function targetOption({ target, text }) {
  return option(JSON.stringify(target), text);
}

function option(value, text, disabled = false) {
  return element("option", { value, disabled }, text);
}

function fill(select, options) {
  const before = select.value;
  select.replaceChildren(...options);
  if ([...select.options].some(({ value, disabled }) => value === before && !disabled)) select.value = before;
}

function described({ platform, precision, device, labels, preprocessing }) {
  const { resize_size: resize, crop_size: crop } = preprocessing;
  const made = resize === crop ? `cut to ${crop} × ${crop} pixels` : `resized to ${resize} and cut to ${crop} × ${crop} pixels`;
  return [
    element("p", { className: "hint" }, `${platform}, ${precision}, on ${device}. Pictures are ${made}.`),
    element("details", {}, element("summary", {}, counted(labels.length, "label")), element("p", { className: "labels" }, labels.join(", "))),
  ];
}
