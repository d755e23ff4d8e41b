"""Asking for a version over gRPC, being told which one answered, and what state each of them is in: every service."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest

from deployments.protocols.generated import inference_pb2 as oip
from deployments.protocols.generated import tensorflow_error_pb2
from deployments.protocols.generated import tensorflow_pb2 as tf
from deployments.protocols.generated import tensorflow_serving_pb2 as tfs
from tests.unit.bytes_plane import BytesPlane
from tests.unit.oip_requests import encoded
from tests.unit.rpc_server import INFERENCE, MODEL, PREDICTION, TIMEOUT_S, Stub, call, exchange, refusal
from tests.unit.versioned import WHY, keys, plane, replica, status, told, two_versions, version_info

Metadata = Sequence[tuple[str, str]]


def infer_request(version: str = "") -> oip.ModelInferRequest:
    return oip.ModelInferRequest(
        model_name="shapes",
        model_version=version,
        inputs=[{"name": "IMAGE", "datatype": "BYTES", "shape": [2]}],
        raw_input_contents=[encoded(b"photo", b"another")],
    )


def spec(**choice: Any) -> dict[str, Any]:
    return {"name": "shapes", **choice}


def predict_request(**choice: Any) -> tfs.PredictRequest:
    shape = tf.TensorShapeProto(dim=[tf.TensorShapeProto.Dim(size=1)])
    image = tf.TensorProto(dtype=tf.DT_STRING, tensor_shape=shape, string_val=[b"photo"])
    return tfs.PredictRequest(model_spec=spec(**choice), inputs={"IMAGE": image})


def classify_request(**choice: Any) -> tfs.ClassificationRequest:
    feature = tf.Feature(bytes_list=tf.BytesList(value=[b"photo"]))
    example = tf.Example(features=tf.Features(feature={"image/encoded": feature}))
    return tfs.ClassificationRequest(model_spec=spec(**choice), input={"example_list": {"examples": [example]}})


def metadata_request(**choice: Any) -> tfs.GetModelMetadataRequest:
    return tfs.GetModelMetadataRequest(model_spec=spec(**choice), metadata_field=["signature_def"])


def status_request(**choice: Any) -> tfs.GetModelStatusRequest:
    return tfs.GetModelStatusRequest(model_spec=spec(**choice))


CANARY = {"version_label": "canary"}
SECOND = {"version": {"value": 2}}
# Requests for version 2, and for whatever answers.
PINNED: dict[str, tuple[Stub, str, Any]] = {
    "oip version": (INFERENCE, "ModelInfer", infer_request("2")),
    "oip label": (INFERENCE, "ModelInfer", infer_request("canary")),
    "predict version": (PREDICTION, "Predict", predict_request(**SECOND)),
    "predict label": (PREDICTION, "Predict", predict_request(**CANARY)),
    "classify version": (PREDICTION, "Classify", classify_request(**SECOND)),
    "classify label": (PREDICTION, "Classify", classify_request(**CANARY)),
}
UNPINNED: dict[str, tuple[Stub, str, Any]] = {
    "oip": (INFERENCE, "ModelInfer", infer_request()),
    "predict": (PREDICTION, "Predict", predict_request()),
    "classify": (PREDICTION, "Classify", classify_request()),
}


async def answered(
    channel: grpc.aio.Channel, stub: Stub, method: str, request: Any, metadata: Metadata = ()
) -> tuple[str, Any]:
    """The version that the trailing metadata name, whose spec they must name, too; and the answer."""
    running = getattr(stub(channel), method)(request, metadata=metadata, timeout=TIMEOUT_S)
    answer = await running
    trailing = dict(await running.trailing_metadata())
    version: str = trailing["x-model-version"]
    assert trailing["x-preprocessing-spec"] == version_info(int(version)).preprocessing.digest
    return version, answer


def ask(stub: Stub, method: str, request: Any, metadata: Metadata = ()) -> tuple[str, Any]:
    return exchange(lambda channel: answered(channel, stub, method, request, metadata), plane())


@pytest.mark.parametrize(("stub", "method", "request_"), PINNED.values(), ids=PINNED)
def test_the_version_that_is_asked_for_answers_and_is_named(stub: Stub, method: str, request_: Any) -> None:
    version, answer = ask(stub, method, request_)
    assert version == "2"
    assert (answer.model_version if stub is INFERENCE else str(answer.model_spec.version.value)) == "2"


@pytest.mark.parametrize(("stub", "method", "request_"), UNPINNED.values(), ids=UNPINNED)
def test_a_routing_key_always_leads_to_the_same_version(stub: Stub, method: str, request_: Any) -> None:
    async def use(channel: grpc.aio.Channel) -> list[str]:
        return [
            (await answered(channel, stub, method, request_, [("x-routing-key", key)]))[0]
            for key in [*keys(20), *keys(20)]
        ]

    expected = [str(two_versions().choose(None, None, key).version) for key in keys(20)]
    assert exchange(use, plane()) == [*expected, *expected]
    assert set(expected) == {"1", "2"}


@pytest.mark.parametrize("values", [["k" * 257], ["one", "two"]], ids=["long", "two"])
def test_a_key_that_is_too_long_or_there_twice_is_an_invalid_argument(values: list[str]) -> None:
    async def use(channel: grpc.aio.Channel) -> None:
        metadata = [("x-routing-key", value) for value in values]
        await INFERENCE(channel).ModelInfer(infer_request(), metadata=metadata, timeout=TIMEOUT_S)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        exchange(use, plane())
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "x-routing-key" in (caught.value.details() or "")


@pytest.mark.parametrize("version", ["7", "3", "-1", "beta", "7" * 5000, "l" * 5000, " 2", "2.0"])
def test_a_version_or_a_label_that_is_not_there_is_not_found(version: str) -> None:
    for method, request in {
        "ModelInfer": infer_request(version),
        "ModelMetadata": oip.ModelMetadataRequest(name="shapes", version=version),
        "ModelConfig": oip.ModelConfigRequest(name="shapes", version=version),
        "ModelStatistics": oip.ModelStatisticsRequest(name="shapes", version=version),
    }.items():
        assert len(refusal(INFERENCE, method, request, "NOT_FOUND", plane())) < 200


@pytest.mark.parametrize("choice", [{"version": {"value": 3}}, {"version": {"value": 7}}, {"version_label": "beta"}])
def test_tensorflow_servings_clients_do_not_find_them_either(choice: dict[str, Any]) -> None:
    for method, request in {
        "Predict": predict_request(**choice),
        "Classify": classify_request(**choice),
        "GetModelMetadata": metadata_request(**choice),
    }.items():
        refusal(PREDICTION, method, request, "NOT_FOUND", plane())


@pytest.mark.parametrize("version", ["4", "next"])
def test_a_version_that_is_loading_is_unavailable_with_when_to_come_again(version: str) -> None:
    async def use(channel: grpc.aio.Channel) -> None:
        await INFERENCE(channel).ModelInfer(infer_request(version), timeout=TIMEOUT_S)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        exchange(use, plane(told(replica(1, status(4, "LOADING"), labels={"next": 4}))))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert int(dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]) > 0


# A stream


def stream(requests: list[oip.ModelInferRequest], metadata: Metadata = ()) -> list[Any]:
    async def sent() -> AsyncIterator[oip.ModelInferRequest]:
        for request in requests:
            yield request

    async def use(channel: grpc.aio.Channel) -> list[Any]:
        async with asyncio.timeout(TIMEOUT_S):
            return [answer async for answer in INFERENCE(channel).ModelStreamInfer(sent(), metadata=metadata)]

    return exchange(use, plane())


def test_each_request_of_a_stream_names_its_version_and_is_answered_by_it() -> None:
    answers = stream([infer_request(version) for version in ("1", "canary", "beta", "stable")])
    assert [each.infer_response.model_version for each in answers] == ["1", "2", "", "1"]
    assert "'beta'" in answers[2].error_message


def test_the_requests_of_a_stream_without_a_key_are_divided() -> None:
    answers = stream([infer_request()] * 60)
    assert {each.infer_response.model_version for each in answers} == {"1", "2"}


def test_the_key_of_a_stream_is_that_of_each_of_its_requests() -> None:
    for key in keys(8):
        answers = stream([infer_request()] * 4, [("x-routing-key", key)])
        expected = str(two_versions().choose(None, None, key).version)
        assert [each.infer_response.model_version for each in answers] == [expected] * 4


# States


def ask_oip(method: str, request: Any, to: BytesPlane | None = None) -> Any:
    return call(INFERENCE, method, request, to or plane())


def test_the_metadata_list_the_versions_that_answer_and_say_why_others_do_not() -> None:
    metadata = ask_oip("ModelMetadata", oip.ModelMetadataRequest(name="shapes"))
    assert list(metadata.versions) == ["1", "2"]
    assert dict(metadata.properties) == {
        "version": "1",
        "preprocessing_spec": version_info(1).preprocessing.digest,
        "versions.1": "AVAILABLE",
        "versions.2": "AVAILABLE",
        "versions.3": f"END: {WHY}",
        "versions.4": "LOADING",
        "labels.stable": "1",
        "labels.canary": "2",
    }


@pytest.mark.parametrize("version", ["2", "canary"])
def test_the_metadata_and_the_configuration_are_of_the_version_that_is_asked_for(version: str) -> None:
    side = version_info(2).preprocessing.crop_size
    metadata = ask_oip("ModelMetadata", oip.ModelMetadataRequest(name="shapes", version=version))
    assert (metadata.properties["version"], list(metadata.inputs[2].shape)) == ("2", [-1, 3, side, side])
    config = ask_oip("ModelConfig", oip.ModelConfigRequest(name="shapes", version=version)).config
    assert list(config.input[2].dims) == [3, side, side]


@pytest.mark.parametrize(("version", "ready"), [("", True), ("1", True), ("canary", True), ("3", False), ("4", False)])
def test_only_a_version_that_answers_is_ready(version: str, ready: bool) -> None:
    assert ask_oip("ModelReady", oip.ModelReadyRequest(name="shapes", version=version)).ready is ready


@pytest.mark.parametrize("version", ["7", "beta"])
def test_what_was_never_there_has_no_readiness(version: str) -> None:
    refusal(INFERENCE, "ModelReady", oip.ModelReadyRequest(name="shapes", version=version), "NOT_FOUND", plane())


@pytest.mark.parametrize(("version", "expected"), [("", ["1", "2"]), ("2", ["2"]), ("stable", ["1"])])
def test_statistics_are_of_each_version_that_answers_or_of_one(version: str, expected: list[str]) -> None:
    stats = ask_oip("ModelStatistics", oip.ModelStatisticsRequest(name="shapes", version=version)).model_stats
    assert [each.version for each in stats] == expected


def test_the_repository_index_has_every_version_with_its_state_and_reason() -> None:
    models = ask_oip("RepositoryIndex", oip.RepositoryIndexRequest()).models
    assert [(each.version, each.state, each.reason) for each in models] == [
        ("1", "READY", ""),
        ("2", "READY", ""),
        ("3", "UNAVAILABLE", WHY),
        ("4", "LOADING", ""),
    ]


def states(request: tfs.GetModelStatusRequest) -> list[tuple[int, int, int, str]]:
    response = call(MODEL, "GetModelStatus", request, plane())
    return [
        (each.version, each.state, each.status.error_code, each.status.error_message)
        for each in response.model_version_status
    ]


OK = tensorflow_error_pb2.OK
AVAILABLE, LOADING, END = (getattr(tfs.ModelVersionStatus, name) for name in ("AVAILABLE", "LOADING", "END"))
STATES = [
    (1, AVAILABLE, OK, ""),
    (2, AVAILABLE, OK, ""),
    (3, END, tensorflow_error_pb2.UNKNOWN, WHY),
    (4, LOADING, OK, ""),
]


def test_tensorflow_serving_lists_all_versions_with_the_error_of_one_that_failed() -> None:
    assert states(status_request()) == STATES


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_tensorflow_serving_tells_the_state_of_one_version(version: int) -> None:
    assert states(status_request(version={"value": version})) == [STATES[version - 1]]


def test_tensorflow_serving_tells_the_state_under_a_label() -> None:
    assert states(status_request(version_label="canary")) == [STATES[1]]
    refusal(MODEL, "GetModelStatus", status_request(version_label="beta"), "NOT_FOUND", plane())
    refusal(MODEL, "GetModelStatus", status_request(version={"value": 7}), "NOT_FOUND", plane())


@pytest.mark.parametrize(("choice", "version"), [(SECOND, 2), (CANARY, 2), ({}, 1)])
def test_tensorflow_servings_metadata_are_of_that_version(choice: dict[str, Any], version: int) -> None:
    named, response = ask(PREDICTION, "GetModelMetadata", metadata_request(**choice))
    assert (named, response.model_spec.version.value) == (str(version), version)
