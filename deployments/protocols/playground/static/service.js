// Every request of the page. Addresses are relative to the page's own, so that it works below any prefix; the API key, if
// the service asks for one, is in this module's memory and nowhere else.

import { lines } from "./ndjson.js";

export const BASE = new URL("./", location.href);
const NDJSON = "application/x-ndjson";

let key = "";

export function useKey(text) {
  key = text.trim();
}

export const hasKey = () => key !== "";

/** What the service, or the way to it, has against a request: one sentence for people. */
export class Refusal extends Error {
  name = "Refusal";

  constructor(sentence, status = 0, retryAfterS = null) {
    super(sentence);
    this.status = status;
    this.retryAfterS = retryAfterS;
  }
}

/** What answers: a model by name, and a version by number or by label, or neither. */
export function query({ model, version, label }, topK) {
  const given = { model, version, label, top_k: topK };
  return new URLSearchParams(Object.entries(given).filter(([, value]) => value !== undefined)).toString();
}

/** Returns { answer, timing, elapsedMs }; `timing` is the Server-Timing header, or null. */
export async function classify(image, target, topK, signal) {
  const started = performance.now();
  const response = await ask(`predict?${query(target, topK)}`, { method: "POST", body: image, signal });
  const answer = await response.json();
  return { answer, timing: response.headers.get("server-timing"), elapsedMs: performance.now() - started };
}

/** The lines of the answer, one for each image as it is ready. Throws a Refusal if they break off. */
export async function* classifyEach(files, target, topK, signal) {
  const form = new FormData();
  for (const file of files) form.append("file", file);
  const init = { method: "POST", body: form, headers: { accept: NDJSON }, signal };
  const response = await ask(`predict?${query(target, topK)}`, init);
  for await (const line of lines(response.body)) {
    if (line.done) return;
    if (!("index" in line)) throw new Refusal(line.error);
    yield line;
  }
  throw new Refusal("The answer broke off before every picture had its own.");
}

/** What the model looked at: { label, heat, area, ... } of POST explain. */
export async function explain(image, target, signal) {
  return (await ask(`explain?${query(target, 1)}`, { method: "POST", body: image, signal })).json();
}

export async function liveFigures(signal) {
  return (await ask("playground/live", { signal })).json();
}

/** [{ name, version, state, reason }], one for each version of each model. */
export async function repositoryIndex() {
  return (await ask("v2/repository/index", { method: "POST" })).json();
}

export async function metadata(model) {
  return (await ask(`v2/models/${encodeURIComponent(model)}`)).json();
}

/** How many images a request may have. */
export async function maxImages(model) {
  return (await (await ask(`v2/models/${encodeURIComponent(model)}/config`)).json()).max_batch_size;
}

async function ask(path, { headers = {}, ...init } = {}) {
  const response = await sent(new URL(path, BASE), { ...init, headers: { ...headers, ...(key ? { "x-api-key": key } : {}) } });
  if (!response.ok) throw await refusalOf(response);
  return response;
}

async function sent(address, init) {
  try {
    return await fetch(address, init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("The service cannot be reached. It may be restarting, or the network is down; nothing was answered.");
  }
}

async function refusalOf(response) {
  const retryAfterS = Number.parseInt(response.headers.get("retry-after"), 10) || null;
  const said = await response.json().then((body) => body.error, () => undefined);
  const sentence = said ?? `Something on the way answered ${response.status} ${response.statusText} and did not say why.`;
  const hint = retryAfterS === null ? "" : ` It can be asked again in ${retryAfterS} s.`;
  return new Refusal(sentence + hint, response.status, retryAfterS);
}
