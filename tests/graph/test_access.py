"""API keys at the running service, with stock clients; and, without keys, who is refused all the same."""

import os
import queue
import shlex
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import ray
import tritonclient.grpc
import tritonclient.http
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ray import serve
from tritonclient.utils import InferenceServerException

from deployments import ingress
from deployments.settings.keys import Key, Rate, digest_of, new_key
from scripts import api_key
from tests.access import grpc_status, own_address
from tests.awaiting import await_condition, is_ready
from tests.graph.test_config_failures import answers_grpc
from tests.local_graph import DEPLOY_TIMEOUT_S, Graph, deploy, graph_config, local_config
from tests.reference import picture

NAME = "guarded"
# A changed file is noticed within seconds; a busy machine takes longer.
ROTATION_TIMEOUT_S = 60.0
TIMEOUT_S = 30.0
STAR = picture("star")


@dataclass(frozen=True)
class Guarded:
    """An application that asks for keys, beside the one that asks nobody."""

    graph: Graph
    keys_file: Path
    key: str

    @property
    def url(self) -> str:
        return f"{self.graph.url}/{NAME}"

    def predict(self, headers: dict[str, str]) -> httpx.Response:
        return httpx.post(f"{self.url}/predict", content=STAR, headers=headers, timeout=TIMEOUT_S)

    def status_of(self, key: str) -> int:
        return self.predict({"x-api-key": key}).status_code


def line_of(key: str, rate: Rate | None = None) -> str:
    return Key("test", digest_of(key), rate=rate).line() + "\n"


@pytest.fixture(scope="module")
def guarded(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    keys_file = tmp_path_factory.mktemp("access") / "keys"
    key = new_key()
    keys_file.write_text(line_of(key))
    application = {**local_config()["applications"][0], "name": NAME, "route_prefix": f"/{NAME}"}
    application["args"] = {
        "models": [{"name": "colours", "engine": "dummy"}],
        "access": {"keys_file": str(keys_file)},
    }
    application["deployments"] = [
        {"name": name, "max_ongoing_requests": 64, "ray_actor_options": {"num_cpus": 0.1}}
        for name in ("Ingress", "Preprocessor", "colours")
    ]
    config = graph_config()
    config["applications"].append(application)
    deploy(config)
    try:
        # Its health needs no key.
        await_condition(lambda: is_ready(f"{graph.url}/{NAME}"), DEPLOY_TIMEOUT_S, "the model is warm")
        yield Guarded(graph, keys_file, key)
    finally:
        deploy(graph_config())
        await_condition(lambda: NAME not in serve.status().applications, DEPLOY_TIMEOUT_S, "it is deleted")
        # The proxies hear of it later, and until then gRPC calls would have to say which application they mean.
        await_condition(lambda: answers_grpc(graph.grpc_address), DEPLOY_TIMEOUT_S, "gRPC has one application")


# HTTP


def test_http_asks_for_a_key_behind_the_proxy_as_well(guarded: Guarded) -> None:
    refused = guarded.predict({})
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert refused.json()["code"] == "unauthenticated"
    assert guarded.status_of("wrong") == 401
    assert guarded.predict({"authorization": f"Bearer {guarded.key}"}).json()["model"] == "colours"
    assert guarded.status_of(guarded.key) == 200


def test_curl_sends_a_key(guarded: Guarded, tmp_path: Path) -> None:
    (tmp_path / "star").write_bytes(STAR)
    line = f"curl -sS -H 'x-api-key: {guarded.key}' --data-binary @{tmp_path}/star {guarded.url}/predict"
    answer = subprocess.run(shlex.split(line), check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert '"predictions"' in answer.stdout


def test_a_refusal_waits_for_no_more_of_the_body_than_haproxy_keeps(guarded: Guarded) -> None:
    head = f"POST /{NAME}/predict HTTP/1.1\r\nHost: here\r\nContent-Length: 9000000\r\n\r\n"
    kept_bytes = int(os.environ["RAY_SERVE_HAPROXY_TUNE_BUFSIZE"])
    host, port = guarded.graph.address.split(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as connection:
        connection.sendall(head.encode() + bytes(kept_bytes))
        assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")


# Stock clients


def image_input(api: Any) -> Any:
    values = np.array([STAR], dtype=np.object_)
    tensor = api.InferInput("IMAGE", [1], "BYTES")
    tensor.set_data_from_numpy(values)
    return tensor


def test_tritons_http_client_sends_a_key(guarded: Guarded) -> None:
    with tritonclient.http.InferenceServerClient(f"{guarded.graph.address}/{NAME}") as client:
        headers = {"authorization": f"Bearer {guarded.key}"}
        assert client.is_server_ready()
        assert client.get_model_metadata("colours", headers=headers)["name"] == "colours"
        result = client.infer("colours", [image_input(tritonclient.http)], headers=headers)
        assert result.as_numpy("PROBABILITIES").shape[0] == 1
        with pytest.raises(InferenceServerException) as caught:
            client.infer("colours", [image_input(tritonclient.http)])
        assert str(caught.value.status()) == "401"


def test_tritons_grpc_client_sends_a_key_with_calls_and_streams(guarded: Guarded) -> None:
    with tritonclient.grpc.InferenceServerClient(guarded.graph.grpc_address) as client:
        named = {"application": NAME}
        headers = {**named, "authorization": f"Bearer {guarded.key}"}
        assert client.is_server_ready(headers=named)
        result = client.infer("colours", [image_input(tritonclient.grpc)], headers=headers)
        assert result.as_numpy("PROBABILITIES").shape[0] == 1
        with pytest.raises(InferenceServerException) as caught:
            client.infer("colours", [image_input(tritonclient.grpc)], headers=named)
        assert caught.value.status() == "StatusCode.UNAUTHENTICATED"
        for sent, refused in ((headers, False), (named, True)):
            # Its own, since what stops a stream is reported to it as well.
            answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
            client.start_stream(lambda result, error, put=answers.put: put((result, error)), headers=sent)
            # A stream that has been refused already takes nothing.
            with suppress(InferenceServerException):
                client.async_stream_infer("colours", [image_input(tritonclient.grpc)])
            result, error = answers.get(timeout=TIMEOUT_S)
            client.stop_stream(cancel_requests=True)
            assert (error is not None) is refused
            if refused:
                assert "asks for an API key" in str(error)


def test_grpc_health_needs_no_key(guarded: Guarded) -> None:
    with grpc.insecure_channel(guarded.graph.grpc_address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), metadata=[("application", NAME)], timeout=TIMEOUT_S)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_python_handles_need_no_key(guarded: Guarded) -> None:
    answer = serve.get_app_handle(NAME).predict.remote(STAR).result(timeout_s=TIMEOUT_S)
    assert answer["model"] == "colours"


# Rotation


def test_keys_change_while_the_service_runs(guarded: Guarded, capsys: pytest.CaptureFixture[str]) -> None:
    api_key.main(["next", "--requests-per-s", "0.001", "--burst", "1"])
    said = capsys.readouterr()
    new = said.err.split()[-1]
    try:
        guarded.keys_file.write_text(line_of(guarded.key) + said.out)
        await_condition(lambda: guarded.status_of(new) == 200, ROTATION_TIMEOUT_S, "the new key is known")
        over = guarded.predict({"x-api-key": new})
        assert (over.status_code, over.json()["code"]) == (429, "quota_exceeded")
        assert int(over.headers["retry-after"]) > 900
        assert guarded.status_of(guarded.key) == 200
        guarded.keys_file.write_text(said.out)
        await_condition(lambda: guarded.status_of(guarded.key) == 401, ROTATION_TIMEOUT_S, "the old key is gone")
        # What cannot be keys changes nothing.
        guarded.keys_file.write_text("nonsense")
        assert guarded.status_of(new) == 429
    finally:
        guarded.keys_file.write_text(line_of(guarded.key))
        await_condition(lambda: guarded.status_of(guarded.key) == 200, ROTATION_TIMEOUT_S, "the first key is back")


# What is said of keys


def test_neither_keys_nor_hashes_are_in_the_status_or_the_logs(guarded: Guarded) -> None:
    """After all of the above, the refusals among it."""
    secrets = [guarded.key, digest_of(guarded.key).hex(), f"Bearer {guarded.key}"[:20]]
    status = str(serve.status())
    folder = Path(ray._private.worker._global_node.get_session_dir_path()) / "logs"  # type: ignore[attr-defined]
    logs = [path for path in folder.rglob("*") if path.is_file()]
    texts = {"serve status": status, **{str(path): path.read_text(errors="replace") for path in logs}}
    assert any("ingress" in path.lower() for path in texts)
    assert [path for path, text in texts.items() for secret in secrets if secret in text] == []


# Without keys


def test_the_ingress_knows_where_the_service_listens(graph: Graph) -> None:
    # What it compares with the settings before it starts (test_ingress_access.py).
    assert ingress._listens_on() == "127.0.0.1"


def test_without_keys_the_grpc_port_of_a_replica_answers_this_machine_alone(graph: Graph) -> None:
    """Behind HAProxy each Ingress replica has a port of its own, which Serve opens on every interface."""
    controller = serve.context._get_global_client()._controller  # type: ignore[union-attr]
    groups = ray.get(controller.get_target_groups.remote(app_name="aperture", from_proxy_manager=True))
    ports = [target.port for group in groups if group.protocol == "gRPC" for target in group.targets]
    assert ports
    for port in ports:
        assert grpc_status(f"127.0.0.1:{port}") is grpc.StatusCode.OK
        assert grpc_status(f"{own_address()}:{port}") is grpc.StatusCode.UNAUTHENTICATED
