"""Requests over gRPC with pictures whose answers are known: the Open Inference Protocol and TensorFlow Serving."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from benchmarks.soak.asking import by_label
from benchmarks.soak.ledger import Judgement, judged
from benchmarks.soak.questions import Question
from deployments.protocols.generated import (
    inference_pb2,
    inference_pb2_grpc,
    tensorflow_pb2,
    tensorflow_serving_pb2,
    tensorflow_serving_pb2_grpc,
)

Found = Sequence[Mapping[str, float]]
CLASSES = 10
# Large enough for a stream to be in flight on all three of its requests.
STREAMED = 3
# How gRPC says that HAProxy answered 503 in place of a server that is not there.
PROXY_REFUSED = "status: 503"
# REFUSED_STREAM (RFC 9113, section 7): how it ends a stream whose Ingress has died, which nobody can send again but the
# client (docs/operations.md). Of other calls it is to keep what it has sent, and send it again.
STREAM_REFUSED = "RST_STREAM with error code 7"
# In the sentences of errors that are the service's own fault (deployments/protocols/rpc.py).
INTERNAL = "internal error"


class StreamError(Exception):
    """What a stream says in place of an answer."""


class Stubs:
    """Of all services, on one connection."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.inference = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        self.prediction = tensorflow_serving_pb2_grpc.PredictionServiceStub(channel)


@dataclass(frozen=True)
class Call:
    """`ask` raises grpc.aio.AioRpcError; its last argument is a timeout in seconds."""

    ask: Callable[[Stubs, Sequence[Question], float], Awaitable[Found]]
    images: int = 1
    is_stream: bool = False


async def call(way: Call, stubs: Stubs, questions: Sequence[Question], timeout_s: float) -> Judgement:
    """What became of it. A call that lasts `timeout_s` was given up by the client."""
    started = time.monotonic()
    try:
        found = await way.ask(stubs, questions, timeout_s)
    except StreamError as err:
        # A stream has one status for all of its requests; the errors of each are texts, and its images are good.
        return ("failed" if INTERNAL in str(err) else "refused"), str(err)
    except grpc.aio.AioRpcError as err:
        if way.is_stream and STREAM_REFUSED in (err.details() or ""):
            return "refused", STREAM_REFUSED
        return of_error(err, given_up=time.monotonic() - started >= timeout_s)
    except (ValueError, KeyError, IndexError) as err:
        return "wrong", repr(err)
    return judged(questions, found, CLASSES, one_by_one=False)


def of_error(err: grpc.aio.AioRpcError, *, given_up: bool = False) -> Judgement:
    code, details = err.code(), err.details() or ""
    what = f"{code.name}: {details}"
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return ("lost" if given_up else "expired"), what
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return "refused", what
    if code == grpc.StatusCode.UNAVAILABLE:
        # A client whose connection broke makes up the same code; Serve's own statuses come with metadata.
        from_server = bool(err.trailing_metadata()) or PROXY_REFUSED in details
        return ("refused" if from_server else "lost"), what
    return "failed", what


def request_of(questions: Sequence[Question], *, request_id: str = "", raw: bool = True) -> Any:
    """A ModelInferRequest with encoded images."""
    images = [each.image for each in questions]
    tensor: dict[str, Any] = {"name": "IMAGE", "datatype": "BYTES", "shape": [len(images)]}
    if not raw:
        tensor["contents"] = {"bytes_contents": images}
    return inference_pb2.ModelInferRequest(
        model_name=questions[0].model,
        id=request_id,
        inputs=[tensor],
        outputs=[{"name": "PROBABILITIES"}],
        raw_input_contents=[b"".join(len(each).to_bytes(4, "little") + each for each in images)] if raw else [],
    )


async def _infer_raw(stubs: Stubs, questions: Sequence[Question], timeout_s: float) -> Found:
    return _rows(await stubs.inference.ModelInfer(request_of(questions), timeout=timeout_s), questions)


async def _infer_typed(stubs: Stubs, questions: Sequence[Question], timeout_s: float) -> Found:
    return _rows(await stubs.inference.ModelInfer(request_of(questions, raw=False), timeout=timeout_s), questions)


async def _infer_stream(stubs: Stubs, questions: Sequence[Question], timeout_s: float) -> Found:
    """A request for each image, all sent before the first answer is read."""

    async def requests() -> AsyncIterator[Any]:
        for number, question in enumerate(questions):
            yield request_of([question], request_id=str(number))

    found: list[Mapping[str, float]] = []
    async for answer in stubs.inference.ModelStreamInfer(requests(), timeout=timeout_s):
        if answer.error_message:
            raise StreamError(answer.error_message)
        if answer.infer_response.id != str(len(found)):
            raise ValueError(f"request {answer.infer_response.id} is answered before request {len(found)}")
        found.extend(_rows(answer.infer_response, [questions[len(found)]]))
    return found


async def _tensorflow_predict(stubs: Stubs, questions: Sequence[Question], timeout_s: float) -> Found:
    request = tensorflow_serving_pb2.PredictRequest(
        model_spec={"name": questions[0].model}, output_filter=["PROBABILITIES"]
    )
    tensor = tensorflow_pb2.TensorProto(
        dtype=tensorflow_pb2.DT_STRING,
        tensor_shape={"dim": [{"size": len(questions)}]},
        string_val=[each.image for each in questions],
    )
    request.inputs["IMAGE"].CopyFrom(tensor)
    response = await stubs.prediction.Predict(request, timeout=timeout_s)
    return _by_label(np.array(response.outputs["PROBABILITIES"].float_val), questions)


async def _tensorflow_classify(stubs: Stubs, questions: Sequence[Question], timeout_s: float) -> Found:
    request = tensorflow_serving_pb2.ClassificationRequest(model_spec={"name": questions[0].model})
    for question in questions:
        example = request.input.example_list.examples.add()
        example.features.feature["image"].bytes_list.value.append(question.image)
    response = await stubs.prediction.Classify(request, timeout=timeout_s)
    return [by_label((each.label, each.score) for each in one.classes) for one in response.result.classifications]


CALLS: Mapping[str, Call] = {
    "OIP gRPC, raw": Call(_infer_raw, images=2),
    "OIP gRPC, typed": Call(_infer_typed),
    "OIP gRPC, stream": Call(_infer_stream, images=STREAMED, is_stream=True),
    "TF Serving gRPC, predict": Call(_tensorflow_predict, images=2),
    "TF Serving gRPC, classify": Call(_tensorflow_classify),
}


def _rows(response: Any, questions: Sequence[Question]) -> Found:
    (output,) = response.outputs
    if output.name != "PROBABILITIES":
        raise ValueError(f"{output.name} was not asked for")
    return _by_label(np.frombuffer(response.raw_output_contents[0], "<f4"), questions)


def _by_label(values: np.ndarray[Any, Any], questions: Sequence[Question]) -> Found:
    labels = questions[0].labels
    rows = values.reshape(len(questions), len(labels))
    return [by_label(zip(labels, map(float, row), strict=True)) for row in rows]
