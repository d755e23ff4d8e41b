// The request of this page in four forms to copy. Each is a whole program for a file picture.jpg.

import { BASE, hasKey, query } from "./service.js";

const FILE = "picture.jpg";
// The key itself is in no snippet: what is copied is pasted where others read it.
const KEY_VARIABLE = "APERTURE_API_KEY";
const FROM_ENVIRONMENT = `os.environ["${KEY_VARIABLE}"]`;

/** As Python writes it: names of models and labels have letters, digits and a few signs, and JSON's quotes do for them. */
const quoted = JSON.stringify;

function curl(target, topK) {
  const key = hasKey() ? ` -H "x-api-key: $${KEY_VARIABLE}"` : "";
  return `curl${key} --data-binary @${FILE} '${BASE}predict?${query(target, topK)}'`;
}

function python(target, topK) {
  const parameters = { ...target, top_k: topK };
  const written = Object.entries(parameters).map(([name, value]) => `${quoted(name)}: ${quoted(value)}`).join(", ");
  return `${hasKey() ? "import os\n" : ""}from pathlib import Path

import httpx

response = httpx.post(
    ${quoted(`${BASE}predict`)},
    params={${written}},
    content=Path("${FILE}").read_bytes(),${hasKey() ? `\n    headers={"x-api-key": ${FROM_ENVIRONMENT}},` : ""}
    timeout=30,
)
response.raise_for_status()
for prediction in response.json()["predictions"]:
    print(prediction["label"], prediction["probability"])`;
}

function triton({ model, version, label }, topK, { labels, facts }) {
  const inputs = facts.inputs.map(({ name }) => name);
  if (!inputs.includes("IMAGE")) return `# ${model} announces no input for encoded pictures to this client, but ${inputs.join(" and ")}.`;
  // Its client knows no labels, only numbers.
  const number = version ?? labels.find(([name]) => name === label)?.[1];
  const address = `${BASE.host}${BASE.pathname}`.replace(/\/$/, "");
  const options = [
    number === undefined ? "" : `model_version=${quoted(number)}`,
    hasKey() ? `headers={"x-api-key": ${FROM_ENVIRONMENT}}` : "",
  ].filter(Boolean);
  return `${hasKey() ? "import os\n" : ""}from pathlib import Path

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

client = InferenceServerClient(${quoted(address)}${BASE.protocol === "https:" ? ", ssl=True" : ""})
image = InferInput("IMAGE", [1], "BYTES")
image.set_data_from_numpy(np.array([Path("${FILE}").read_bytes()], object))
best = InferRequestedOutput("PROBABILITIES", class_count=${topK})
result = client.infer(${[quoted(model), "[image]", "outputs=[best]", ...options].join(", ")})
for element in result.as_numpy("PROBABILITIES")[0]:
    probability, index, label = element.decode().split(":")
    print(label, probability)`;
}

function handle({ model, version, label }, topK) {
  const named = [
    `model=${quoted(model)}`,
    version === undefined ? "" : `version=${version}`,
    label === undefined ? "" : `label=${quoted(label)}`,
  ].filter(Boolean);
  return `from pathlib import Path

import ray
from ray import serve

# In a driver, run with RAY_AUTH_MODE=token; tasks and actors of the cluster are connected already.
ray.init(address="auto")
handle = serve.get_app_handle("aperture")
image = Path("${FILE}").read_bytes()
answer = handle.predict.remote(image, top_k=${topK}, ${named.join(", ")}).result()
for prediction in answer["predictions"]:
    print(prediction["label"], prediction["probability"])`;
}

/** By the names of their tabs: (target, topK, model of the catalogue) to text. */
export const SNIPPETS = { curl, Python: python, tritonclient: triton, "Ray handle": handle };
