"""Asking for a version over HTTP, being told which one answered, and what state each of them is in: every protocol."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from deployments.messages import ModelInfo
from deployments.protocols.http import asgi_app
from deployments.protocols.predict import routes
from tests.unit.bytes_plane import BytesPlane, base64_of, info, part, refusal, send
from tests.unit.oip_requests import HEADER, image_input
from tests.unit.versioned import WHY, keys, plane, replica, status, told, two_versions, version_info

REQUESTS = 300
# Of a binomial distribution.
DEVIATIONS = 4
DIGESTS = {str(version): version_info(version).preprocessing.digest for version in (1, 2)}

PHOTO: dict[str, Any] = {"content": b"photo"}
B64 = {"b64": base64_of(b"photo")}


def as_json(body: object, **headers: str) -> dict[str, Any]:
    return {"content": json.dumps(body), "headers": {"content-type": "application/json", **headers}}


OIP = as_json({"inputs": [image_input(b"photo", b"another")]})
PREDICT = as_json({"instances": [B64, B64]})
CLASSIFY = as_json({"examples": [{"image/encoded": B64}]})
FLOATS = as_json({"input_data": [[[0.5]], [[0.5]], [[0.5]]]})
FORM = {
    "content": part("a.png", b"photo") + part("b.png", b"another") + b"--edge--\r\n",
    "headers": {"content-type": "multipart/form-data; boundary=edge"},
}
LINES = {**PHOTO, "headers": {"accept": "application/x-ndjson"}}
# The path of a request for version 2, for the label canary, and for neither; and the request.
INFERENCES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "plain": ("/predict?version=2", "/predict?label=canary", "/predict", PHOTO),
    "several": ("/predict?version=2", "/predict?label=canary", "/predict", FORM),
    "floats": ("/predict?version=2", "/predict?label=canary", "/predict", FLOATS),
    "base64": ("/predict?version=2", "/predict?label=canary", "/predict", as_json({"images": [base64_of(b"a")]})),
    "url": ("/predict?version=2", "/predict?label=canary", "/predict", as_json({"image_url": "https://a.b/c"})),
    "lines": (
        *("/predict?version=2", "/predict?label=canary", "/predict"),
        LINES,
    ),
    "hugging face": ("/?version=2", "/?label=canary", "/", PHOTO),
    "hugging face, json": ("/?version=2", "/?label=canary", "/", as_json({"inputs": [base64_of(b"photo")]})),
    "oip": (
        *("/v2/models/shapes/versions/2/infer", "/v2/models/shapes/labels/canary/infer", "/v2/models/shapes/infer"),
        OIP,
    ),
    "oip, binary": (
        *("/v2/models/shapes/versions/2/infer", "/v2/models/shapes/labels/canary/infer", "/v2/models/shapes/infer"),
        {**PHOTO, "headers": {HEADER: "0"}},
    ),
    "tensorflow": (
        *("/v1/models/shapes/versions/2:predict", "/v1/models/shapes/labels/canary:predict"),
        *("/v1/models/shapes:predict", PREDICT),
    ),
    "tensorflow, classify": (
        *("/v1/models/shapes/versions/2:classify", "/v1/models/shapes/labels/canary:classify"),
        *("/v1/models/shapes:classify", CLASSIFY),
    ),
}
each_inference = pytest.mark.parametrize(
    ("by_version", "by_label", "by_neither", "request_"), INFERENCES.values(), ids=INFERENCES
)


class RecordingPlane(BytesPlane):
    """Counts how often a version is chosen, and which ones are asked."""

    def __init__(self) -> None:
        super().__init__(models={"shapes": two_versions()})
        self.chosen = 0
        self.asked: list[int] = []

    def info_of(self, model: str | None, version: str | None = None, label: str | None = None) -> ModelInfo:
        self.chosen += 1
        return super().info_of(model, version, label)

    async def classify(self, images: Any, info: ModelInfo, timeout_s: float | None = None) -> Any:
        self.asked.append(info.version)
        return await super().classify(images, info, timeout_s)


def ask(
    path: str, request: Mapping[str, Any], to: BytesPlane | None = None, key: str | bytes | None = None
) -> httpx.Response:
    headers = dict(request.get("headers", {})) | ({} if key is None else {"x-routing-key": key})
    return send("POST", path, to or plane(), **{**request, "headers": headers})


def named(response: httpx.Response) -> str:
    """The version that the headers name, whose spec they must name, too."""
    assert response.status_code == 200, response.text
    version: str = response.headers["x-model-version"]
    assert response.headers["x-preprocessing-spec"] == DIGESTS[version]
    return version


# Asking


@each_inference
def test_the_version_that_is_asked_for_answers_and_is_named(
    by_version: str, by_label: str, by_neither: str, request_: dict[str, Any]
) -> None:
    for path in (by_version, by_label):
        recording = RecordingPlane()
        assert named(ask(path, request_, recording)) == "2"
        assert recording.asked == [2]


@each_inference
def test_a_version_is_chosen_once_for_all_images_of_a_request(
    by_version: str, by_label: str, by_neither: str, request_: dict[str, Any]
) -> None:
    for path in (by_version, by_label, by_neither):
        recording = RecordingPlane()
        answered = named(ask(path, request_, recording))
        assert (recording.chosen, recording.asked) == (1, [int(answered)])


@each_inference
@pytest.mark.parametrize("version", ["7", "3"])
def test_a_version_that_is_not_there_or_has_failed_is_not_found(
    by_version: str, by_label: str, by_neither: str, request_: dict[str, Any], version: str
) -> None:
    path = by_version.replace("version=2", f"version={version}").replace("versions/2", f"versions/{version}")
    assert version in refusal(ask(path, request_), 404, "unknown_model")


@each_inference
def test_an_unknown_label_is_not_found(
    by_version: str, by_label: str, by_neither: str, request_: dict[str, Any]
) -> None:
    assert "'beta'" in refusal(ask(by_label.replace("canary", "beta"), request_), 404, "unknown_model")


@each_inference
def test_a_version_that_is_loading_is_worth_another_try(
    by_version: str, by_label: str, by_neither: str, request_: dict[str, Any]
) -> None:
    loading = plane(told(replica(1, status(4, "LOADING"), labels={"canary": 4})))
    by_number = by_version.replace("version=2", "version=4").replace("versions/2", "versions/4")
    for path in (by_number, by_label):
        response = ask(path, request_, loading)
        refusal(response, 503, "model_not_ready")
        assert int(response.headers["retry-after"]) > 0


@pytest.mark.parametrize("path", ["/predict", "/"])
def test_a_version_and_a_label_at_once_are_refused(path: str) -> None:
    assert "not both" in refusal(ask(f"{path}?version=1&label=stable", PHOTO), 400, "bad_request")


def test_the_body_names_the_version_where_the_protocol_has_a_place_for_it() -> None:
    assert ask("/predict?label=canary", PHOTO).json()["version"] == 2
    assert ask("/predict?label=canary", FORM).json()["version"] == 2
    lines = ask("/predict?version=2", LINES).text.splitlines()
    assert json.loads(lines[-1])["version"] == 2
    assert ask("/v2/models/shapes/labels/canary/infer", OIP).json()["model_version"] == "2"


# Asking for none


@each_inference
def test_a_routing_key_always_leads_to_the_same_version(
    by_version: str, by_label: str, by_neither: str, request_: dict[str, Any]
) -> None:
    for key in keys(12):
        expected = two_versions().choose(None, None, key).version
        for _ in range(2):
            assert named(ask(by_neither, request_, key=key)) == str(expected)
    assert {two_versions().choose(None, None, key).version for key in keys(12)} == {1, 2}


def test_without_a_key_the_id_of_the_request_decides() -> None:
    """So that traffic is divided by its weights among clients that know of no key."""
    ids = iter(keys(REQUESTS))
    several = plane()
    app = asgi_app(routes(several), several.limits, request_id=lambda: next(ids))

    async def exchange() -> list[str]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            return [named(await client.post("/predict", content=b"photo")) for _ in range(REQUESTS)]

    versions = asyncio.run(exchange())
    assert versions == [str(two_versions().choose(None, None, each).version) for each in keys(REQUESTS)]
    assert abs(versions.count("2") - REQUESTS * 0.1) < DEVIATIONS * (REQUESTS * 0.1 * 0.9) ** 0.5


def test_a_key_does_not_move_who_asks_for_a_version() -> None:
    for key in keys(12):
        assert named(ask("/predict?version=2", PHOTO, key=key)) == "2"
        assert named(ask("/predict?label=stable", PHOTO, key=key)) == "1"


def test_an_empty_key_is_none() -> None:
    assert named(ask("/predict", PHOTO, key="")) == named(ask("/predict", PHOTO))


def test_a_key_may_be_as_long_as_an_id_and_no_longer() -> None:
    assert ask("/predict", PHOTO, key="k" * 256).status_code == 200
    sentence = refusal(ask("/predict", PHOTO, key="k" * 257), 400, "bad_request")
    assert ("256" in sentence, "257" in sentence, len(sentence) < 200) == (True, True, True)


def test_two_keys_are_refused() -> None:
    headers = [("x-routing-key", "one"), ("x-routing-key", "two")]
    refusal(send("POST", "/predict", plane(), content=b"photo", headers=headers), 400, "bad_request")


def test_any_bytes_are_a_key() -> None:
    assert named(ask("/predict", PHOTO, key=bytes(range(128, 256))))


def test_nothing_names_a_version_before_one_was_chosen() -> None:
    for response in (ask("/predict?model=none", PHOTO), send("GET", "/v2/health/ready", plane())):
        assert "x-model-version" not in response.headers


def test_a_refusal_names_the_version_that_refused() -> None:
    response = ask("/predict?version=2", {"content": b"bad image"})
    assert (response.status_code, response.headers["x-model-version"]) == (422, "2")


# States, as each protocol tells them


def get(path: str, to: BytesPlane | None = None) -> Any:
    response = send("GET", path, to or plane())
    assert response.status_code == 200, response.text
    return response.json()


def test_the_metadata_list_the_versions_that_answer_and_say_why_others_do_not() -> None:
    metadata = get("/v2/models/shapes")
    assert metadata["versions"] == ["1", "2"]
    assert metadata["version_labels"] == {"stable": "1", "canary": "2"}
    assert [tuple(each.values()) for each in metadata["version_status"]] == [
        ("1", "AVAILABLE", ""),
        ("2", "AVAILABLE", ""),
        ("3", "END", WHY),
        ("4", "LOADING", ""),
    ]


@pytest.mark.parametrize(
    ("path", "version"), [("/versions/2", "2"), ("/labels/canary", "2"), ("/labels/stable", "1"), ("", "1")]
)
def test_the_metadata_are_of_the_version_that_is_asked_for_or_of_the_one_with_most_traffic(
    path: str, version: str
) -> None:
    for key in keys(8):
        response = send("GET", f"/v2/models/shapes{path}", plane(), headers={"x-routing-key": key})
        metadata = response.json()
        assert metadata["version"] == named(response) == version
        assert metadata["preprocessing"]["digest"] == DIGESTS[version]
        side = version_info(int(version)).preprocessing.crop_size
        assert metadata["inputs"][2]["shape"] == [-1, 3, side, side]


@pytest.mark.parametrize(
    ("path", "ready"),
    [
        *(("", True), ("/versions/1", True), ("/labels/canary", True)),
        *(("/versions/3", False), ("/versions/4", False)),
    ],
)
def test_only_a_version_that_answers_is_ready(path: str, ready: bool) -> None:
    response = send("GET", f"/v2/models/shapes{path}/ready", plane())
    assert (response.status_code, response.json()) == (200 if ready else 503, {"name": "shapes", "ready": ready})


@pytest.mark.parametrize("path", ["/versions/7", "/labels/beta"])
@pytest.mark.parametrize("suffix", ["", "/ready", "/config", "/stats"])
def test_what_was_never_there_has_no_readiness_nor_anything_else(path: str, suffix: str) -> None:
    refusal(send("GET", f"/v2/models/shapes{path}{suffix}", plane()), 404, "unknown_model")


def test_statistics_are_of_each_version_that_answers_or_of_the_one_that_is_asked_for() -> None:
    def versions(path: str) -> list[tuple[str, str]]:
        return [(each["name"], each["version"]) for each in get(path)["model_stats"]]

    assert versions("/v2/models/shapes/stats") == [("shapes", "1"), ("shapes", "2")]
    assert versions("/v2/models/stats") == [("shapes", "1"), ("shapes", "2")]
    assert versions("/v2/models/shapes/versions/2/stats") == [("shapes", "2")]
    assert versions("/v2/models/shapes/labels/stable/stats") == [("shapes", "1")]


def test_a_version_that_was_not_asked_anything_yet_has_statistics_too() -> None:
    class Idle(BytesPlane):
        async def statistics(self, model: str) -> Any:
            return {}

    idle = Idle(models={"shapes": two_versions()})
    stats = get("/v2/models/shapes/stats", idle)["model_stats"]
    assert [(each["version"], each["inference_count"], each["last_inference"]) for each in stats] == [
        ("1", 0, 0),
        ("2", 0, 0),
    ]


def test_the_repository_index_has_every_version_with_its_state_and_reason() -> None:
    response = send("POST", "/v2/repository/index", plane())
    assert [tuple(each.values()) for each in response.json()] == [
        ("shapes", "1", "READY", ""),
        ("shapes", "2", "READY", ""),
        ("shapes", "3", "UNAVAILABLE", WHY),
        ("shapes", "4", "LOADING", ""),
    ]
    ready = send("POST", "/v2/repository/index", plane(), content=b'{"ready": true}').json()
    assert [each["version"] for each in ready] == ["1", "2"]


def test_tensorflow_serving_lists_all_versions_with_the_error_of_one_that_failed() -> None:
    assert get("/v1/models/shapes")["model_version_status"] == [
        {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}},
        {"version": "2", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}},
        {"version": "3", "state": "END", "status": {"error_code": "UNKNOWN", "error_message": WHY}},
        {"version": "4", "state": "LOADING", "status": {"error_code": "OK", "error_message": ""}},
    ]


@pytest.mark.parametrize(
    ("path", "version", "state"),
    [
        ("/versions/2", "2", "AVAILABLE"),
        ("/versions/003", "3", "END"),
        ("/versions/4", "4", "LOADING"),
        ("/labels/stable", "1", "AVAILABLE"),
    ],
)
def test_tensorflow_serving_tells_the_state_of_one_version(path: str, version: str, state: str) -> None:
    (entry,) = get(f"/v1/models/shapes{path}")["model_version_status"]
    assert (entry["version"], entry["state"]) == (version, state)


@pytest.mark.parametrize(("path", "version"), [("/versions/2", "2"), ("/labels/canary", "2"), ("", "1")])
def test_tensorflow_servings_metadata_are_of_that_version(path: str, version: str) -> None:
    response = send("GET", f"/v1/models/shapes{path}/metadata", plane())
    assert response.json()["model_spec"]["version"] == named(response) == version


def test_the_states_of_a_version_on_its_way_out_are_told_as_such() -> None:
    catalogue = told(replica(2, status(1, "UNLOADING")))
    assert get("/v1/models/shapes/versions/1", plane(catalogue))["model_version_status"][0]["state"] == "UNLOADING"
    index = send("POST", "/v2/repository/index", plane(catalogue)).json()
    assert index[0]["state"] == "UNLOADING"


def test_a_plane_of_one_version_names_it_as_ever() -> None:
    response = send("POST", "/predict?model=others", BytesPlane(), content=b"photo")
    assert response.headers["x-model-version"] == "4"
    assert response.headers["x-preprocessing-spec"] == info("others", 4).preprocessing.digest
