"""Loading and unloading by request, over each protocol: what stock clients send is taken, and nothing beside it."""

import asyncio
import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from deployments.access import AccessControl
from deployments.errors import ApertureError, LoadFailed
from deployments.messages import ModelConfig
from deployments.protocols import admin as protocol
from deployments.protocols.authentication import guarded
from deployments.protocols.generated import inference_pb2 as oip
from deployments.protocols.generated import tensorflow_serving_pb2 as tfs
from deployments.protocols.http import asgi_app
from deployments.protocols.tfserving.reload import MAX_ENTRIES, configs_of
from deployments.settings import Access, Limits, VersionPolicy
from tests.unit.bytes_plane import BytesPlane, refusal
from tests.unit.rpc_server import INFERENCE, MODEL, TIMEOUT_S, Stub, serving
from tests.unit.test_authentication import access_for

LIMITS = Limits(max_body_bytes=10_000)
LOAD, UNLOAD = "/v2/repository/models/shapes/load", "/v2/repository/models/shapes/unload"


class Recorder:
    """An administrator who writes down what is asked, by whom, and for how long."""

    def __init__(self, failure: ApertureError | None = None) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.callers: set[str] = set()
        self.timeouts_s: list[float] = []
        self._failure = failure

    async def load(self, model: str, who: str, timeout_s: float) -> None:
        self._note("load", model, who, timeout_s)

    async def unload(self, model: str, who: str, timeout_s: float) -> None:
        self._note("unload", model, who, timeout_s)

    async def reload(self, wanted: Mapping[str, ModelConfig], who: str, timeout_s: float) -> None:
        self._note("reload", dict(wanted), who, timeout_s)

    def _note(self, action: str, what: Any, who: str, timeout_s: float) -> None:
        if self._failure is not None:
            raise self._failure
        self.asked.append((action, what))
        self.callers.add(who)
        self.timeouts_s.append(timeout_s)


def post(path: str, admin: Recorder, access: AccessControl | None = None, **request: Any) -> httpx.Response:
    access = access or AccessControl(Access())
    app = asgi_app(guarded(protocol.routes(admin, access, LIMITS), access), LIMITS, request_id=lambda: "test-id")

    async def exchange() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            return await client.post(path, **request)

    return asyncio.run(exchange())


def call(
    stub: Stub, method: str, request: Any, admin: Recorder, key: str = "", access: AccessControl | None = None
) -> Any:
    async def run() -> Any:
        async with serving(BytesPlane(), access, admin) as channel:
            metadata = [("x-api-key", key)] if key else []
            return await getattr(stub(channel), method)(request, timeout=TIMEOUT_S, metadata=metadata)

    return asyncio.run(run())


def rpc_refusal(stub: Stub, method: str, request: Any, status: str, admin: Recorder, **call_with: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        call(stub, method, request, admin, **call_with)
    assert caught.value.code() == grpc.StatusCode[status], caught.value.details()
    return caught.value.details() or ""


# Triton over HTTP


@pytest.mark.parametrize("content", [b"", b"{}", b'{"parameters": {}}'])
def test_a_load_has_no_body_or_an_empty_one(content: bytes) -> None:
    admin = Recorder()
    response = post(LOAD, admin, content=content, headers={"x-request-timeout-seconds": "7"})
    assert (response.status_code, response.content) == (200, b"")
    assert admin.asked == [("load", "shapes")]
    assert 6 < admin.timeouts_s[0] <= 7


@pytest.mark.parametrize("dependents", [True, False])
def test_an_unload_with_what_tritons_client_adds_is_taken(dependents: bool) -> None:
    admin = Recorder()
    content = gzip.compress(json.dumps({"parameters": {"unload_dependents": dependents}}).encode())
    assert post(UNLOAD, admin, content=content, headers={"content-encoding": "gzip"}).status_code == 200
    assert admin.asked == [("unload", "shapes")]


@pytest.mark.parametrize(
    ("path", "content", "words"),
    [
        (LOAD, b'{"parameters": {"config": "{}"}}', "'config'"),
        (LOAD, b'{"parameters": {"file:1/model.onnx": "AAAA"}}', "'file:1/model.onnx'"),
        (LOAD, b'{"parameters": {"unload_dependents": true}}', "takes no parameter"),
        (UNLOAD, b'{"parameters": {"config": "{}"}}', "'config'"),
        (LOAD, b'{"parameters": ["config"]}', "must be an object"),
        (LOAD, b"[]", "must be an object"),
        (LOAD, b"{", "not valid JSON"),
        (LOAD, b"[" * 9_999, "not valid JSON"),
    ],
)
def test_what_would_change_what_is_loaded_is_refused(path: str, content: bytes, words: str) -> None:
    admin = Recorder()
    assert words in refusal(post(path, admin, content=content), 400, "bad_request")
    assert admin.asked == []


def test_a_large_body_is_refused() -> None:
    refusal(post(LOAD, Recorder(), content=b" " * 10_001), 413, "body_too_large")


def test_a_load_that_fails_is_the_requests_failure_and_says_why() -> None:
    admin = Recorder(LoadFailed("Version 3 is broken."))
    assert refusal(post(LOAD, admin), 400, "load_failed") == "Version 3 is broken."


# Who may


@pytest.mark.parametrize("path", [LOAD, UNLOAD])
def test_over_http_only_a_key_with_the_scope_admin_changes_models(tmp_path: Path, path: str) -> None:
    access, admin = access_for(tmp_path), Recorder()
    refusal(post(path, admin, access), 401, "unauthenticated")
    for scope in ("classify", "read"):
        refusal(post(path, admin, access, headers={"x-api-key": scope}), 403, "forbidden")
    assert admin.asked == []
    assert post(path, admin, access, headers={"x-api-key": "admin"}).status_code == 200
    assert admin.callers == {"the API key admin"}


@pytest.mark.parametrize(
    ("stub", "method", "request_type"),
    [
        (INFERENCE, "RepositoryModelLoad", oip.RepositoryModelLoadRequest),
        (INFERENCE, "RepositoryModelUnload", oip.RepositoryModelUnloadRequest),
        (MODEL, "HandleReloadConfigRequest", tfs.ReloadConfigRequest),
    ],
)
def test_over_grpc_only_a_key_with_the_scope_admin_changes_models(
    tmp_path: Path, stub: Stub, method: str, request_type: Any
) -> None:
    access, admin = access_for(tmp_path), Recorder()
    rpc_refusal(stub, method, request_type(), "UNAUTHENTICATED", admin, access=access)
    rpc_refusal(stub, method, request_type(), "PERMISSION_DENIED", admin, key="classify", access=access)
    assert admin.asked == []
    request = request_type()
    if method == "HandleReloadConfigRequest":
        request.config.model_config_list.config.add(name="shapes")
    call(stub, method, request, admin, key="admin", access=access)
    assert admin.callers == {"the API key admin"}


def test_a_page_in_a_browser_changes_nothing_without_a_key(tmp_path: Path) -> None:
    admin, page = Recorder(), {"origin": "http://elsewhere.example"}
    assert "Web pages" in refusal(post(UNLOAD, admin, headers=page), 403, "forbidden")
    assert admin.asked == []
    assert post(UNLOAD, admin, access_for(tmp_path), headers=page | {"x-api-key": "admin"}).status_code == 200


def test_without_keys_the_log_has_a_caller_on_this_machine() -> None:
    admin = Recorder()
    post(LOAD, admin)
    call(INFERENCE, "RepositoryModelLoad", oip.RepositoryModelLoadRequest(model_name="shapes"), admin)
    assert admin.callers == {"a caller on this machine"}


# Triton over gRPC


def test_a_load_and_an_unload_over_grpc_name_their_model() -> None:
    admin = Recorder()
    call(INFERENCE, "RepositoryModelLoad", oip.RepositoryModelLoadRequest(model_name="shapes"), admin)
    unload = oip.RepositoryModelUnloadRequest(model_name="others")
    unload.parameters["unload_dependents"].bool_param = False
    call(INFERENCE, "RepositoryModelUnload", unload, admin)
    assert admin.asked == [("load", "shapes"), ("unload", "others")]


def test_parameters_and_repositories_over_grpc_are_refused() -> None:
    admin = Recorder()
    load = oip.RepositoryModelLoadRequest(model_name="shapes")
    load.parameters["config"].string_param = "{}"
    assert "'config'" in rpc_refusal(INFERENCE, "RepositoryModelLoad", load, "INVALID_ARGUMENT", admin)
    unload = oip.RepositoryModelUnloadRequest(model_name="shapes", repository_name="elsewhere")
    assert "'elsewhere'" in rpc_refusal(INFERENCE, "RepositoryModelUnload", unload, "INVALID_ARGUMENT", admin)
    failing = Recorder(LoadFailed("Version 3 is broken."))
    load = oip.RepositoryModelLoadRequest(model_name="shapes")
    assert rpc_refusal(INFERENCE, "RepositoryModelLoad", load, "FAILED_PRECONDITION", failing) == "Version 3 is broken."
    assert admin.asked == []


# TensorFlow Serving


def config(name: str = "shapes", **fields: Any) -> tfs.ModelConfig:
    return tfs.ModelConfig(name=name, **fields)


def reload_of(*configs: tfs.ModelConfig) -> tfs.ReloadConfigRequest:
    return tfs.ReloadConfigRequest(config={"model_config_list": {"config": configs}})


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (None, VersionPolicy(latest=1)),
        ({}, VersionPolicy(latest=1)),
        ({"latest": {}}, VersionPolicy(latest=1)),
        ({"latest": {"num_versions": 3}}, VersionPolicy(latest=3)),
        ({"all": {}}, VersionPolicy(all=True)),
        ({"specific": {"versions": [7, 3]}}, VersionPolicy(specific=(7, 3))),
    ],
)
def test_each_policy_of_tensorflow_serving_is_ours(policy: dict[str, Any] | None, expected: VersionPolicy) -> None:
    assert configs_of(reload_of(config(model_version_policy=policy)))["shapes"].versions == expected


def test_a_reload_names_models_paths_and_labels() -> None:
    admin = Recorder()
    first = config(base_path="/models/shapes", model_platform="tensorflow", version_labels={"stable": 1, "canary": 2})
    answer = call(MODEL, "HandleReloadConfigRequest", reload_of(first, config("others")), admin)
    assert answer.status.error_code == 0
    latest = VersionPolicy(latest=1)
    assert admin.asked == [
        (
            "reload",
            {
                "shapes": ModelConfig(latest, {"stable": 1, "canary": 2}, "/models/shapes"),
                "others": ModelConfig(latest, {}),
            },
        )
    ]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        pytest.param(tfs.ReloadConfigRequest(), "needs a model_config_list", id="nothing"),
        pytest.param(
            tfs.ReloadConfigRequest(config={"custom_model_config": {}}),
            "needs a model_config_list",
            id="custom",
        ),
        pytest.param(reload_of(), "has 0 models", id="no model"),
        pytest.param(reload_of(config(), config()), "'shapes' twice", id="a model twice"),
        pytest.param(reload_of(*(config(str(i)) for i in range(MAX_ENTRIES + 1))), "1001 models", id="many models"),
        pytest.param(reload_of(config(model_version_policy={"specific": {}})), "specific", id="no version"),
        pytest.param(
            reload_of(config(model_version_policy={"specific": {"versions": [-1]}})),
            "specific",
            id="a negative version",
        ),
        pytest.param(
            reload_of(config(model_version_policy={"specific": {"versions": [1, 1]}})), "twice", id="a version twice"
        ),
        pytest.param(
            reload_of(config(model_version_policy={"specific": {"versions": range(MAX_ENTRIES + 1)}})),
            "1001 versions",
            id="many versions",
        ),
        pytest.param(
            reload_of(config(version_labels={str(i): 1 for i in range(MAX_ENTRIES + 1)})),
            "1001 labels",
            id="many labels",
        ),
    ],
)
def test_a_reload_that_cannot_be_meant_is_refused(request_: tfs.ReloadConfigRequest, words: str) -> None:
    admin = Recorder()
    assert words in rpc_refusal(MODEL, "HandleReloadConfigRequest", request_, "INVALID_ARGUMENT", admin)
    assert admin.asked == []
