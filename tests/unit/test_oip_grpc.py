"""inference.GRPCInferenceService on a server and a channel of its own, over the messages that stock clients send."""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from deployments.errors import ApertureError, DeadlineExceeded, ModelNotReady, Overloaded
from deployments.messages import Answer, ImageInput, ModelInfo
from deployments.protocols.generated import inference_pb2 as pb
from tests.unit.bytes_plane import LABELS, MAX_BODY_BYTES, MAX_IMAGES, BytesPlane, logits_of, probabilities_of
from tests.unit.rpc_server import HEALTH, INFERENCE, TIMEOUT_S, call, exchange, refusal

IMAGES = [b"first image", b"second"]
PIXELS = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
# The brightest and the darkest pixel of the preprocessing that the model announces.
WHITE = (1 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])


def raw(images: Sequence[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(image)) + image for image in images)


def request(name: str, datatype: str, shape: Sequence[int], content: bytes | None = None) -> pb.ModelInferRequest:
    contents = [] if content is None else [content]
    inputs = [{"name": name, "datatype": datatype, "shape": shape}]
    return pb.ModelInferRequest(model_name="shapes", inputs=inputs, raw_input_contents=contents)


def images_request(images: Sequence[bytes] = IMAGES) -> pb.ModelInferRequest:
    return request("IMAGE", "BYTES", [len(images)], raw(images))


def infer(message: pb.ModelInferRequest, plane: BytesPlane | None = None) -> pb.ModelInferResponse:
    return call(INFERENCE, "ModelInfer", message, plane)


def outputs_of(response: pb.ModelInferResponse) -> dict[str, np.ndarray[Any, Any]]:
    """As stock clients read them: raw_output_contents in the order of the outputs."""
    assert len(response.outputs) == len(response.raw_output_contents)
    return {
        output.name: np.frombuffer(content, "<f4").reshape(output.shape)
        for output, content in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def elements_of(content: bytes) -> Iterator[bytes]:
    while content:
        (length,) = struct.unpack_from("<I", content)
        yield content[4 : 4 + length]
        content = content[4 + length :]


# Answers


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_raw_images_are_answered_with_probabilities_and_logits(shape: list[int]) -> None:
    response = infer(request("IMAGE", "BYTES", shape, raw(IMAGES)))
    assert (response.model_name, response.model_version) == ("shapes", "3")
    outputs = outputs_of(response)
    assert list(outputs) == ["PROBABILITIES", "LOGITS"]
    np.testing.assert_array_equal(outputs["PROBABILITIES"], [probabilities_of(image) for image in IMAGES])
    np.testing.assert_array_equal(outputs["LOGITS"], [logits_of(image) for image in IMAGES])


def test_images_in_bytes_contents_are_answered_alike() -> None:
    message = request("IMAGE", "BYTES", [2])
    message.inputs[0].contents.bytes_contents.extend(IMAGES)
    assert infer(message) == infer(images_request())


def test_raw_and_typed_pixels_are_answered_alike() -> None:
    in_bytes = request("PIXELS", "UINT8", PIXELS.shape, PIXELS.tobytes())
    typed = request("PIXELS", "UINT8", PIXELS.shape)
    typed.inputs[0].contents.uint_contents.extend(PIXELS.ravel().tolist())
    for message in (in_bytes, typed):
        logits = outputs_of(infer(message))["LOGITS"]
        np.testing.assert_array_equal(logits, [logits_of(image) for image in PIXELS])


def test_raw_and_typed_preprocessed_images_are_answered_alike() -> None:
    values = np.broadcast_to(WHITE.astype("<f4")[:, None, None], (1, 3, 224, 224))
    in_bytes = request("INPUT", "FP32", values.shape, values.tobytes())
    typed = request("INPUT", "FP32", values.shape)
    typed.inputs[0].contents.fp32_contents.extend(values.ravel().tolist())
    white = logits_of(np.full((224, 224, 3), 255, np.uint8))
    for message in (in_bytes, typed):
        np.testing.assert_array_equal(outputs_of(infer(message))["LOGITS"], [white])


def test_the_id_comes_back_and_only_the_outputs_asked_for_do() -> None:
    message = images_request()
    message.id = "seven"
    message.outputs.add(name="LOGITS")
    response = infer(message)
    assert response.id == "seven"
    assert list(outputs_of(response)) == ["LOGITS"]


def test_classification_answers_the_best_classes_as_length_prefixed_bytes() -> None:
    message = images_request()
    message.outputs.add(name="PROBABILITIES").parameters["classification"].int64_param = 2
    response = infer(message)
    (output,) = response.outputs
    assert (output.datatype, list(output.shape)) == ("BYTES", [2, 2])
    elements = list(elements_of(response.raw_output_contents[0]))
    assert len(elements) == 4
    for image, element in zip(IMAGES, elements[::2], strict=True):
        best = int(probabilities_of(image).argmax())
        assert element.decode().split(":")[1:] == [str(best), LABELS[best]]


def test_timeout_is_in_microseconds_and_reaches_the_data_plane() -> None:
    message, plane = images_request(), BytesPlane()
    message.parameters["timeout"].int64_param = 15_000_000
    infer(message, plane)
    assert [5 < (timeout_s or 0) <= 15 for timeout_s in plane.timeouts_s] == [True]


def test_a_version_is_named_and_checked() -> None:
    message = images_request()
    message.model_version = "3"
    assert infer(message).model_version == "3"
    message.model_version = "2"
    assert "'2'" in refusal(INFERENCE, "ModelInfer", message, "NOT_FOUND")


# Refusals of inference requests


def with_input(**change: Any) -> Callable[[pb.ModelInferRequest], None]:
    def apply(message: pb.ModelInferRequest) -> None:
        for field, value in change.items():
            if field == "shape":
                del message.inputs[0].shape[:]
                message.inputs[0].shape.extend(value)
            else:
                setattr(message.inputs[0], field, value)

    return apply


def content(*raw_contents: bytes) -> Callable[[pb.ModelInferRequest], None]:
    def apply(message: pb.ModelInferRequest) -> None:
        del message.raw_input_contents[:]
        message.raw_input_contents.extend(raw_contents)

    return apply


def output(*names: str, **parameter: Any) -> Callable[[pb.ModelInferRequest], None]:
    def apply(message: pb.ModelInferRequest) -> None:
        for name in names:
            added = message.outputs.add(name=name)
            if parameter:
                added.parameters["classification"].CopyFrom(pb.InferParameter(**parameter))

    return apply


def timeout(**value: Any) -> Callable[[pb.ModelInferRequest], None]:
    return lambda message: message.parameters["timeout"].CopyFrom(pb.InferParameter(**value))


BAD: dict[str, tuple[Callable[[pb.ModelInferRequest], Any], str]] = {
    "no input": (lambda message: message.ClearField("inputs"), "exactly one input"),
    "a second input": (lambda message: message.inputs.add(name="PIXELS"), "exactly one input"),
    "many inputs": (lambda message: [message.inputs.add() for _ in range(10_000)], "exactly one input"),
    "another name": (with_input(name="image\n" * 1000), "exactly one input"),
    "another datatype": (with_input(datatype="FP32"), "datatype BYTES"),
    "an unknown datatype": (with_input(datatype="IMAGE/" * 1000), "datatype BYTES"),
    "no shape": (with_input(shape=[]), "shape"),
    "no image": (with_input(shape=[0]), "shape"),
    "a negative dimension": (with_input(shape=[-1]), "shape"),
    "too many dimensions": (with_input(shape=[1] * 100_000), "shape"),
    "a larger shape than the bytes": (with_input(shape=[3]), "element 3 of 3"),
    "a smaller shape than the bytes": (with_input(shape=[1]), "bytes after its 1 elements"),
    "a truncated length": (content(raw(IMAGES)[:-8]), "element 2 of 2"),
    "a truncated element": (content(raw(IMAGES)[:-1]), "element 2 of 2"),
    "a length beyond everything": (content(b"\xff\xff\xff\xff" * 2), "element 1 of 2"),
    "two raw contents": (content(raw(IMAGES), raw(IMAGES)), "1 input, but 2 raw_input_contents"),
    "neither raw nor typed": (content(), "0 bytes_contents"),
    "shared memory": (
        lambda message: (
            message.inputs[0].parameters["shared_memory_region"].CopyFrom(pb.InferParameter(string_param="mine"))
        ),
        "shared memory",
    ),
    "raw and typed": (
        lambda message: message.inputs[0].contents.bytes_contents.append(b"x"),
        "not in both",
    ),
    "an unknown output": (output("SCORES"), "no 'SCORES'"),
    "an output twice": (output("LOGITS", "LOGITS"), "twice"),
    "many outputs": (output(*["LOGITS"] * 10_000), "twice"),
    "no number of classes": (output("LOGITS", string_param="5"), "classification"),
    "a negative number of classes": (output("LOGITS", int64_param=-1), "classification"),
    "a negative timeout": (timeout(int64_param=-1), "timeout"),
    "a timeout without a value": (timeout(), "timeout"),
    "a timeout as a text": (timeout(string_param="soon" * 1000), "timeout"),
}


@pytest.mark.parametrize(("change", "expected"), BAD.values(), ids=BAD)
def test_a_request_that_does_not_fit_is_an_invalid_argument(
    change: Callable[[pb.ModelInferRequest], Any], expected: str
) -> None:
    message, plane = images_request(), BytesPlane()
    change(message)
    details = refusal(INFERENCE, "ModelInfer", message, "INVALID_ARGUMENT", plane)
    assert expected in details
    assert len(details) <= 500
    assert plane.images == []


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ([1, 2**62, 2**62, 3], "bytes"),
        ([2**62, 2**62, 2**62, 3], f"{2**62} images"),
        ([1, 2**63 - 1, 2**63 - 1, 4], "shape"),
        ([-1, -1, 4, 3], "shape"),
    ],
)
@pytest.mark.parametrize("typed", [False, True])
def test_a_shape_whose_product_overflows_is_an_invalid_argument(shape: list[int], expected: str, typed: bool) -> None:
    message = request("PIXELS", "UINT8", shape, None if typed else b"\0")
    if typed:
        message.inputs[0].contents.uint_contents.append(0)
    details = refusal(INFERENCE, "ModelInfer", message, "INVALID_ARGUMENT")
    assert (expected if expected != "bytes" or not typed else "uint_contents") in details


def test_an_element_beyond_uint8_is_an_invalid_argument() -> None:
    message = request("PIXELS", "UINT8", [1, 1, 1, 3])
    message.inputs[0].contents.uint_contents.extend([0, 256, 0])
    assert "256" in refusal(INFERENCE, "ModelInfer", message, "INVALID_ARGUMENT")


def test_nan_is_an_invalid_argument() -> None:
    values = np.full((1, 3, 224, 224), np.nan, "<f4")
    message = request("INPUT", "FP32", values.shape, values.tobytes())
    assert "INPUT" in refusal(INFERENCE, "ModelInfer", message, "INVALID_ARGUMENT")


def test_too_many_images_are_refused_before_they_are_read() -> None:
    message = request("IMAGE", "BYTES", [MAX_IMAGES + 1], b"")
    assert str(MAX_IMAGES + 1) in refusal(INFERENCE, "ModelInfer", message, "INVALID_ARGUMENT")


def test_a_request_over_the_limit_is_refused() -> None:
    message = images_request([bytes(MAX_BODY_BYTES)])
    assert str(MAX_BODY_BYTES) in refusal(INFERENCE, "ModelInfer", message, "INVALID_ARGUMENT")


def test_a_bad_image_fails_the_request_and_says_which_it_was() -> None:
    details = refusal(INFERENCE, "ModelInfer", images_request([b"good", b"bad"]), "INVALID_ARGUMENT")
    assert details == "Image 2 of 2: The image is corrupt."


@pytest.mark.parametrize("name", ["cats", "", "\N{SNOWMAN}" * 5000])
def test_an_unknown_model_is_not_found(name: str) -> None:
    message = images_request()
    message.model_name = name
    details = refusal(INFERENCE, "ModelInfer", message, "NOT_FOUND")
    assert len(details) <= 500


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (DeadlineExceeded("No answer within 1 s."), "DEADLINE_EXCEEDED"),
        (Overloaded("Try again."), "RESOURCE_EXHAUSTED"),
        (ModelNotReady("It is still loading."), "UNAVAILABLE"),
    ],
)
def test_the_data_planes_refusals_are_statuses(failure: ApertureError, status: str) -> None:
    assert refusal(INFERENCE, "ModelInfer", images_request(), status, BytesPlane(failure)) == failure.message


def test_an_unexpected_failure_is_logged_and_tells_the_client_nothing(caplog: pytest.LogCaptureFixture) -> None:
    plane = BytesPlane(RuntimeError("the secret of the house"))
    details = refusal(INFERENCE, "ModelInfer", images_request(), "INTERNAL", plane)
    assert "internal error" in details
    assert "secret" not in details
    assert "the secret of the house" in caplog.text


# Cancellation


class WaitingPlane(BytesPlane):
    """Answers nothing until it is told to, and counts who waits and who has been cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0
        self.most_waiting = 0
        self.cancelled = 0
        self.go = asyncio.Event()
        self._wanted: Callable[[], bool] = lambda: False
        self._met = asyncio.Event()

    async def until(self, wanted: Callable[[], bool]) -> None:
        self._wanted, self._met = wanted, asyncio.Event()
        self._changed()
        async with asyncio.timeout(TIMEOUT_S):
            await self._met.wait()

    async def classify(
        self, images: Sequence[ImageInput | ApertureError], info: ModelInfo, timeout_s: float | None = None
    ) -> list[Answer | ApertureError]:
        self.waiting += 1
        self.most_waiting = max(self.waiting, self.most_waiting)
        self._changed()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1
            self._changed()
        return await super().classify(images, info, timeout_s)

    def _changed(self) -> None:
        if self._wanted():
            self._met.set()


def test_the_work_of_a_cancelled_call_is_cancelled() -> None:
    plane = WaitingPlane()

    async def use(channel: grpc.aio.Channel) -> None:
        running = INFERENCE(channel).ModelInfer(images_request())
        waiting = asyncio.ensure_future(running)
        await plane.until(lambda: plane.waiting == 1)
        running.cancel()
        await plane.until(lambda: plane.cancelled == 1)
        await asyncio.gather(waiting, return_exceptions=True)

    exchange(use, plane)


def test_the_work_of_a_call_is_cancelled_when_the_clients_deadline_passes() -> None:
    plane = WaitingPlane()

    async def use(channel: grpc.aio.Channel) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await INFERENCE(channel).ModelInfer(images_request(), timeout=0.2)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await plane.until(lambda: plane.cancelled == 1)

    exchange(use, plane)


# Streams


def stream(messages: Sequence[pb.ModelInferRequest], plane: BytesPlane | None = None) -> list[Any]:
    async def use(channel: grpc.aio.Channel) -> list[Any]:
        async def requests() -> AsyncIterator[pb.ModelInferRequest]:
            for message in messages:
                yield message

        return [answer async for answer in INFERENCE(channel).ModelStreamInfer(requests(), timeout=TIMEOUT_S)]

    return exchange(use, plane)


def numbered(count: int) -> list[pb.ModelInferRequest]:
    messages = [images_request([b"image %d" % number]) for number in range(count)]
    for number, message in enumerate(messages):
        message.id = str(number)
    return messages


def test_a_stream_is_answered_in_the_order_of_its_requests() -> None:
    answers = stream(numbered(50))
    assert [answer.infer_response.id for answer in answers] == [str(number) for number in range(50)]
    for number, answer in enumerate(answers):
        logits = outputs_of(answer.infer_response)["LOGITS"]
        np.testing.assert_array_equal(logits, [logits_of(b"image %d" % number)])


def test_a_bad_request_in_a_stream_leaves_the_others_alone() -> None:
    messages = numbered(5)
    messages[1].model_name = "cats" * 1000
    messages[2].inputs[0].shape[0] = 9
    messages[3] = images_request([bytes(MAX_BODY_BYTES)])
    answers = stream(messages)
    assert [bool(answer.error_message) for answer in answers] == [False, True, True, True, False]
    assert "catscats" in answers[1].error_message
    assert len(answers[1].error_message) <= 500
    assert answers[1].infer_response.id == "1"
    assert answers[4].infer_response.id == "4"


def test_an_unexpected_failure_in_a_stream_tells_the_client_nothing() -> None:
    (answer,) = stream(numbered(1), BytesPlane(RuntimeError("the secret of the house")))
    assert "internal error" in answer.error_message
    assert "secret" not in answer.error_message


def test_requests_of_a_stream_are_worked_on_together_but_not_all_at_once() -> None:
    plane = WaitingPlane()

    async def use(channel: grpc.aio.Channel) -> list[Any]:
        answers = INFERENCE(channel).ModelStreamInfer(iter(numbered(40)), timeout=TIMEOUT_S)
        await plane.until(lambda: plane.waiting == 16)
        for _ in range(100):  # Would any more begin, they would now.
            await asyncio.sleep(0)
        plane.go.set()
        return [answer async for answer in answers]

    assert len(exchange(use, plane)) == 40
    assert plane.most_waiting == 16


def test_the_work_of_a_cancelled_stream_is_cancelled() -> None:
    plane = WaitingPlane()

    async def use(channel: grpc.aio.Channel) -> None:
        call = INFERENCE(channel).ModelStreamInfer()
        for message in numbered(3):
            await call.write(message)
        await plane.until(lambda: plane.waiting == 3)
        call.cancel()
        await plane.until(lambda: plane.cancelled == 3)

    exchange(use, plane)


# Everything else


def ask(method: str, message: Any, plane: BytesPlane | None = None) -> Any:
    return call(INFERENCE, method, message, plane)


def cold_plane() -> BytesPlane:
    return BytesPlane(models={"shapes": None})


def test_the_server_is_live_at_once_and_ready_once_every_model_is_warm() -> None:
    assert ask("ServerLive", pb.ServerLiveRequest(), cold_plane()).live
    assert ask("ServerReady", pb.ServerReadyRequest()).ready
    assert not ask("ServerReady", pb.ServerReadyRequest(), cold_plane()).ready


def test_a_model_is_ready_once_it_is_warm() -> None:
    message = pb.ModelReadyRequest(name="shapes", version="3")
    assert ask("ModelReady", message).ready
    assert not ask("ModelReady", message, cold_plane()).ready
    refusal(INFERENCE, "ModelReady", pb.ModelReadyRequest(name="cats"), "NOT_FOUND")
    refusal(INFERENCE, "ModelReady", pb.ModelReadyRequest(name="shapes", version="9"), "NOT_FOUND")


def test_the_server_names_itself_and_its_extensions() -> None:
    answer = ask("ServerMetadata", pb.ServerMetadataRequest())
    assert answer.name == "aperture"
    assert {"classification", "statistics"} <= set(answer.extensions)


def test_the_metadata_describe_the_tensors() -> None:
    answer = ask("ModelMetadata", pb.ModelMetadataRequest(name="shapes"))
    assert [(each.name, each.datatype, list(each.shape)) for each in answer.inputs] == [
        ("IMAGE", "BYTES", [-1]),
        ("PIXELS", "UINT8", [-1, -1, -1, 3]),
        ("INPUT", "FP32", [-1, 3, 224, 224]),
    ]
    assert [(each.name, list(each.shape)) for each in answer.outputs] == [
        ("PROBABILITIES", [-1, len(LABELS)]),
        ("LOGITS", [-1, len(LABELS)]),
    ]


def test_the_configuration_has_types_and_formats_by_number() -> None:
    config = ask("ModelConfig", pb.ModelConfigRequest(name="shapes")).config
    assert (config.name, config.max_batch_size) == ("shapes", MAX_IMAGES)
    assert [(each.name, each.data_type, each.format) for each in config.input] == [
        ("IMAGE", pb.TYPE_STRING, pb.ModelInput.FORMAT_NONE),
        ("PIXELS", pb.TYPE_UINT8, pb.ModelInput.FORMAT_NHWC),
        ("INPUT", pb.TYPE_FP32, pb.ModelInput.FORMAT_NCHW),
    ]


def test_statistics_are_of_one_model_or_of_all() -> None:
    (one,) = ask("ModelStatistics", pb.ModelStatisticsRequest(name="others")).model_stats
    assert (one.name, one.version, one.inference_stats.success.count) == ("others", "4", 2)
    everyone = ask("ModelStatistics", pb.ModelStatisticsRequest()).model_stats
    assert [each.name for each in everyone] == ["shapes", "others"]


def test_the_index_lists_the_models_and_on_request_only_those_that_are_ready() -> None:
    models = ask("RepositoryIndex", pb.RepositoryIndexRequest()).models
    assert [(each.name, each.version, each.state) for each in models] == [
        ("shapes", "3", "READY"),
        ("others", "4", "READY"),
    ]
    assert [each.state for each in ask("RepositoryIndex", pb.RepositoryIndexRequest(), cold_plane()).models] == [
        "LOADING"
    ]
    assert not ask("RepositoryIndex", pb.RepositoryIndexRequest(ready=True), cold_plane()).models


SERVED = {
    *("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "ModelStreamInfer"),
    *("ModelConfig", "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
}
METHODS = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name


@pytest.mark.parametrize("method", sorted(set(METHODS) - SERVED))
def test_an_rpc_that_is_not_served_says_so(method: str) -> None:
    message = getattr(pb, METHODS[method].input_type.name)()
    assert refusal(INFERENCE, method, message, "UNIMPLEMENTED") == f"{method} is not implemented."


def test_health_is_of_the_service_or_of_a_model() -> None:
    response = health_pb2.HealthCheckResponse
    for service in ("", "shapes"):
        message = health_pb2.HealthCheckRequest(service=service)
        assert call(HEALTH, "Check", message).status == response.SERVING
        assert call(HEALTH, "Check", message, cold_plane()).status == response.NOT_SERVING
    refusal(HEALTH, "Check", health_pb2.HealthCheckRequest(service="cats"), "NOT_FOUND")
    refusal(HEALTH, "List", health_pb2.HealthListRequest(), "UNIMPLEMENTED")
