"""The answers are the right ones, and say whose they are."""

import json
import math
from collections.abc import Sequence
from typing import Any

from benchmarks.selftest.checks import Skipped, Topic, demand
from benchmarks.selftest.deployment import Deployment
from benchmarks.selftest.judging import TOLERANCE, agrees, content_of
from benchmarks.soak.asking import JSON, WAYS

ANSWERS = Topic("answers")
REPEATED = 5
# Probabilities in float32, summed.
SUM_TOLERANCE = 1e-4
# Of what is wrong, in a table.
EXAMPLES = 3


@ANSWERS.claim("the label of each")
async def expected_pictures_have_their_labels(deployment: Deployment) -> str:
    if not deployment.expected:
        raise Skipped("no --expect given, and the model is not the bundled one")
    wrong = []
    for each in deployment.expected:
        found = await _first_label(deployment, each.image)
        if found != each.label:
            wrong.append(f"{each.name}: {found} in place of {each.label}")
    demand(not wrong, f"{len(wrong)} of {len(deployment.expected)} wrong: {'; '.join(wrong[:EXAMPLES])}")
    return f"{len(deployment.expected)} of {len(deployment.expected)}"


async def _first_label(deployment: Deployment, image: bytes) -> str:
    answer = await deployment.service.ask(f"/predict?model={deployment.model.name}&top_k=1", image)
    predictions: Sequence[Any] = content_of(answer)["predictions"]
    return str(predictions[0]["label"])


@ANSWERS.claim("the same answer 5 times")
async def a_repeated_question_has_the_same_answer(deployment: Deployment) -> str:
    asked = WAYS["predict, raw"].ask([deployment.question])
    difference = 0.0
    for _ in range(REPEATED):
        response = await deployment.service.ask(asked.path, asked.body, asked.headers)
        content_of(response)
        difference = max(difference, agrees(asked.read(response), [deployment.question], TOLERANCE))
    return f"5 times, to {difference:.0e}"


@ANSWERS.claim("sum 1, the best first")
async def probabilities_are_probabilities(deployment: Deployment) -> str:
    asked = WAYS["predict, raw"].ask([deployment.question])
    content = content_of(await deployment.service.ask(asked.path, asked.body, asked.headers))
    values = [each["probability"] for each in content["predictions"]]
    total = math.fsum(values)
    demand(abs(total - 1) <= SUM_TOLERANCE and min(values) >= 0, f"sum {total:.6f}, the least {min(values):g}")
    demand(values == sorted(values, reverse=True), "not sorted")
    return f"sum {total:.6f}"


@ANSWERS.claim("a version that the metadata has")
async def every_answer_names_its_model_and_version(deployment: Deployment) -> str:
    model, image = deployment.model, deployment.question.image
    plain = await deployment.service.ask(f"/predict?model={model.name}", image)
    content = content_of(plain)
    named = {
        "body": (content["model"], str(content["version"])),
        "header": (model.name, plain.header("x-model-version")),
    }
    if "IMAGE" in model.inputs:
        asked = WAYS["OIP, JSON in gzip"].ask([deployment.question])
        infer = content_of(await deployment.service.ask(asked.path, asked.body, asked.headers))
        named["OIP"] = (infer["model_name"], infer["model_version"])
    headers = {**JSON, "accept": "application/x-ndjson"}
    asked = WAYS["predict, NDJSON"].ask([deployment.question])
    stream = await deployment.service.ask(asked.path, asked.body, headers)
    demand(stream.status == 200, f"NDJSON: {stream.status}")
    last = json.loads(stream.body.splitlines()[-1])
    named["NDJSON"] = (last["model"], str(last["version"]))
    for where, (name, version) in named.items():
        demand(name == model.name and version in model.versions, f"{where}: {name}, version {version}")
    return f"{model.name}, version {content['version']}"
