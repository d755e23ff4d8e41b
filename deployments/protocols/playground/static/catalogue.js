// Which models answer, in which versions and under which labels.

import { metadata, repositoryIndex } from "./service.js";

/**
 * [{ name, versions, labels, facts }] in the order of the service, whose first is its default. `versions`: of those that
 * answer, as text; none while the model is loading. `labels`: [[label, version]]. `facts`: its metadata.
 */
export async function catalogue() {
  const index = await repositoryIndex();
  const names = [...new Set(index.map(({ name }) => name))];
  return Promise.all(names.map((name) => described(name, index.filter((entry) => entry.name === name))));
}

async function described(name, entries) {
  const versions = entries.filter(({ state }) => state === "READY").map(({ version }) => version);
  const missing = { name, versions: [], labels: [], facts: null };
  if (!versions.length) return missing;
  try {
    const facts = await metadata(name);
    return { name, versions, labels: Object.entries(facts.version_labels), facts };
  } catch {
    // It has been unloaded meanwhile.
    return missing;
  }
}

/** Everything of a model that a request can name: [{ target, text }], what the service chooses by itself first. */
export function targetsOf({ name, versions, labels }) {
  return [
    { target: { model: name }, text: "default" },
    ...labels.map(([label, version]) => ({ target: { model: name, label }, text: `${label} (version ${version})` })),
    ...versions.map((version) => ({ target: { model: name, version }, text: `version ${version}` })),
  ];
}

/** "shapes, version 1", "shapes, canary" or "shapes". */
export function nameOf({ model, version, label }) {
  if (version !== undefined) return `${model}, version ${version}`;
  return label === undefined ? model : `${model}, ${label}`;
}
