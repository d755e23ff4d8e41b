"""Who has no time is told so at once, and by the status that its protocol has for it."""

import base64
import json
import time

import grpc

from benchmarks.http_client import Target
from benchmarks.selftest.checks import Skipped, Topic, demand
from benchmarks.selftest.deployment import Deployment
from benchmarks.selftest.judging import content_of, refused
from benchmarks.selftest.protocols import CALL_S, without_grpc
from benchmarks.selftest.refusals import ends_in
from benchmarks.selftest.service import exchange
from benchmarks.soak.asking import JSON, WAYS, infer_path
from benchmarks.soak.calling import request_of
from deployments.protocols.generated import tensorflow_serving_pb2
from deployments.protocols.patience import TIMEOUT_HEADER

DEADLINES = Topic("deadlines")
# Less than any answer takes.
TINY_S, TINY_US, GENEROUS_S = "0.000001", 1, "20"
# A service under load refuses what it cannot do in time before it begins.
TOO_LATE = (408, 503)
# After which even a busy machine has answered what it need not work for.
PROMPT_S = 3.0
NO_TIMEOUTS = ("0", "-1", "inf", "soon")


@DEADLINES.claim("408 at once")
async def a_tiny_timeout_is_answered_at_once(deployment: Deployment) -> str:
    asked = WAYS["predict, raw"].ask([deployment.question])
    headers = {**asked.headers, TIMEOUT_HEADER: TINY_S}
    return await _prompt(deployment.service.target(asked.path, headers), asked.body)


@DEADLINES.claim("408 at once")
async def the_timeout_parameter_of_oip_holds(deployment: Deployment) -> str:
    if "IMAGE" not in deployment.model.inputs:
        raise Skipped("the model announces no input IMAGE")
    text = base64.b64encode(deployment.question.image).decode()
    tensor = {"name": "IMAGE", "datatype": "BYTES", "shape": [1], "data": [text]}
    body = json.dumps({"parameters": {"timeout": TINY_US}, "inputs": [tensor]}).encode()
    return await _prompt(deployment.service.target(infer_path(deployment.model.name), JSON), body)


@DEADLINES.claim("200")
async def a_generous_timeout_changes_nothing(deployment: Deployment) -> str:
    asked = WAYS["predict, raw"].ask([deployment.question])
    content_of(await deployment.service.ask(asked.path, asked.body, {**asked.headers, TIMEOUT_HEADER: GENEROUS_S}))
    return "200"


@DEADLINES.claim("400 bad_request")
async def a_timeout_that_is_none_is_refused(deployment: Deployment) -> str:
    asked = WAYS["predict, raw"].ask([deployment.question])
    for timeout in NO_TIMEOUTS:
        response = await deployment.service.ask(asked.path, asked.body, {**asked.headers, TIMEOUT_HEADER: timeout})
        came = refused(response, [400])
    return f"{came}, {len(NO_TIMEOUTS)} times"


@DEADLINES.claim("DEADLINE_EXCEEDED at once")
async def a_tiny_timeout_in_the_metadata_of_a_call_holds(deployment: Deployment) -> str:
    without_grpc(deployment)
    late = grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED
    hurried = ((TIMEOUT_HEADER, TINY_S),)
    classification = tensorflow_serving_pb2.ClassificationRequest(model_spec={"name": deployment.model.name})
    example = classification.input.example_list.examples.add()
    example.features.feature["image"].bytes_list.value.append(deployment.question.image)
    started = time.monotonic()
    async with deployment.service.stubs() as stubs:
        infer = stubs.inference.ModelInfer(request_of([deployment.question]), metadata=hurried, timeout=CALL_S)
        came = await ends_in(infer, *late)
        await ends_in(stubs.prediction.Classify(classification, metadata=hurried, timeout=CALL_S), *late)
    demand(time.monotonic() - started <= 2 * PROMPT_S, f"{came} after {time.monotonic() - started:.1f} s")
    return came


async def _prompt(target: Target, body: bytes) -> str:
    started = time.monotonic()
    response = await exchange(target, body)
    came, took_s = refused(response, TOO_LATE), time.monotonic() - started
    demand(took_s <= PROMPT_S, f"{came} after {took_s:.1f} s")
    return came
