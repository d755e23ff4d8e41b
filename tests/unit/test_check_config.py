"""The strict check of a config: what it lets pass, and the one sentence that each fault is answered with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.check_config import check_config, main
from tests.unit.sentences import sentence_of

ROOT = Path(__file__).resolve().parents[2]
LOCAL = (ROOT / "configs/local.yaml").read_text()
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))

# Serve has nothing else yet that sets it for one deployment.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The `metrics_interval_s` field:DeprecationWarning", "ignore:`look_back_period_s`:FutureWarning"
)

Change = Callable[[dict[str, Any]], object]


def application(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["applications"][0]
    return found


def deployment(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The entry of deployments with this name."""
    found: dict[str, Any] = next(one for one in application(config)["deployments"] if one["name"] == name)
    return found


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def changed(tmp_path: Path, change: Change) -> Path:
    """configs/local.yaml after `change`."""
    config = yaml.safe_load(LOCAL)
    change(config)
    return write(tmp_path, yaml.safe_dump(config))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_of_the_repository_passes(path: Path) -> None:
    assert check_config(path).applications[0].name == "aperture"


LATENCY_POLICY: dict[str, Any] = {
    "max_replicas": 4,
    "metrics_interval_s": 1,
    "look_back_period_s": 10,
    "upscale_delay_s": 0,
    "downscale_delay_s": 0,
    "policy": {
        "policy_function": "deployments.autoscaling:LatencyPolicy",
        "policy_kwargs": {"target_latency_s": 0.2},
    },
}


def autoscale(name: str, **changed: Any) -> Change:
    """LatencyPolicy for this deployment, with `changed` keys of autoscaling_config."""

    def change(config: dict[str, Any]) -> None:
        deployment(config, name).update(autoscaling_config={**LATENCY_POLICY, **changed})

    return change


def policy_of(**kwargs: Any) -> dict[str, Any]:
    return {**LATENCY_POLICY["policy"], "policy_kwargs": kwargs}


def two_ingresses_for_eight(config: dict[str, Any]) -> None:
    autoscale("shapes", max_replicas=8)(config)
    deployment(config, "Ingress").update(num_replicas=2)


ALLOWED: dict[str, Change] = {
    "gathering with a policy that counts images": autoscale("shapes"),
    "gathering with an Ingress that counts requests": lambda config: deployment(config, "Ingress").update(
        autoscaling_config={"max_replicas": 4}
    ),
    "calls for all replicas from two Ingresses": two_ingresses_for_eight,
    "no replica at all": autoscale("Preprocessor", min_replicas=0),
    "autoscaling without gathering": lambda config: (
        application(config)["args"].update(gathering=None),
        deployment(config, "shapes").update(autoscaling_config={"max_replicas": 4}),
    ),
    "a smaller live batch": lambda config: deployment(config, "shapes")["user_config"].update(max_batch_size=1),
    "keys on every address": lambda config: (
        config["http_options"].update(host="0.0.0.0"),
        application(config)["args"].update(access={"keys_file": "keys"}),
    ),
    "the other loopback address": lambda config: config["http_options"].update(host="::1"),
    "no gRPC": lambda config: config["grpc_options"].update(grpc_servicer_functions=[]),
    "the highest port": lambda config: config["http_options"].update(port=65535),
}


@pytest.mark.parametrize("change", ALLOWED.values(), ids=ALLOWED)
def test_what_is_right_passes(tmp_path: Path, change: Change) -> None:
    check_config(changed(tmp_path, change))


def test_the_shortest_config_names_one_model(tmp_path: Path) -> None:
    args: dict[str, Any] = {"models": [{"name": "shapes", "path": "models/shapes", "max_batch_size": 2}]}
    # Serve listens on every address unless told otherwise.
    args["access"] = {"open_to_all": True}
    config = {"applications": [{"name": "aperture", "import_path": "graph:build", "args": args}]}
    check_config(write(tmp_path, yaml.safe_dump(config)))


FAULTS: dict[str, tuple[Change, list[str]]] = {
    "misspelt Serve key at the top": (
        lambda config: config.update(http_option={}),
        ["config has the unknown key 'http_option'", "http_options"],
    ),
    "misspelt Serve key of the proxies": (
        lambda config: config["http_options"].update(prot=80),
        ["config.http_options has the unknown key 'prot'", "port"],
    ),
    "misspelt Serve key of the application": (
        lambda config: application(config).update(route_prefx="/"),
        ["config.applications[0] has the unknown key 'route_prefx'", "route_prefix"],
    ),
    "misspelt Serve key of a deployment": (
        lambda config: deployment(config, "shapes").update(num_replica=2),
        ["config.applications[0].deployments[2] has the unknown key 'num_replica'", "num_replicas"],
    ),
    "misspelt key of autoscaling_config": (
        lambda config: deployment(config, "Preprocessor").update(autoscaling_config={"max_replica": 4}),
        ["config.applications[0].deployments[1].autoscaling_config has the unknown key 'max_replica'", "max_replicas"],
    ),
    "misspelt key of ray_actor_options": (
        lambda config: deployment(config, "Ingress").update(ray_actor_options={"num_cpu": 1}),
        ["config.applications[0].deployments[0].ray_actor_options has the unknown key 'num_cpu'", "num_cpus"],
    ),
    "wrong type of a Serve key": (
        lambda config: config["http_options"].update(port="high"),
        ["The key 'http_options.port' has the value 'high'", "a valid integer"],
    ),
    "misspelt key of args": (
        lambda config: application(config)["args"].update(limit={}),
        ["Settings has no key 'limit'", "it knows models, limits"],
    ),
    "misspelt key of a model": (
        lambda config: application(config)["args"]["models"][0].update(treads=2),
        ["ModelSettings has no key 'treads'", "threads"],
    ),
    "misspelt key of user_config": (
        lambda config: deployment(config, "shapes").update(user_config={"batch": 4}),
        ["LiveSettings has no key 'batch'", "it knows max_batch_size"],
    ),
    "unknown deployment": (
        lambda config: deployment(config, "shapes").update(name="shape"),
        ["There is no deployment 'shape'", "Ingress, Preprocessor, shapes"],
    ),
    "the same deployment twice": (
        lambda config: application(config)["deployments"].append({"name": "shapes"}),
        ["deployments has two entries named 'shapes'"],
    ),
    "another route": (
        lambda config: application(config).update(route_prefix="/vision"),
        ["The application's route_prefix is '/vision'", "'/'"],
    ),
    "no route": (
        lambda config: application(config).update(route_prefix=None),
        ["The application's route_prefix is None", "'/'"],
    ),
    "no application": (lambda config: config["applications"].clear(), ["one application", "this one has 0"]),
    "two applications": (
        lambda config: config["applications"].append({**application(config), "name": "two", "route_prefix": "/two"}),
        ["A config holds one application", "this one has 2"],
    ),
    "two applications of one name": (
        lambda config: config["applications"].append({**application(config), "route_prefix": "/two"}),
        ["The key 'applications' has the value", "Please remove all duplicates"],
    ),
    "another import_path": (
        lambda config: application(config).update(import_path="graph:app"),
        ["The application must be named 'aperture' with import_path 'graph:build'"],
    ),
    "another name": (
        lambda config: application(config).update(name="default"),
        ["The application must be named 'aperture' with import_path 'graph:build'"],
    ),
    "a batch that can never fill": (
        lambda config: deployment(config, "shapes").update(max_ongoing_requests=15),
        ["Deployment 'shapes' has max_ongoing_requests 15", "max_batch_size 8 can never fill", "at least 16"],
    ),
    "a batch that Serve's default can never fill": (
        lambda config: deployment(config, "shapes").pop("max_ongoing_requests"),
        ["Deployment 'shapes' has max_ongoing_requests 5", "max_batch_size 8 can never fill"],
    ),
    "a live batch above max_batch_size": (
        lambda config: deployment(config, "shapes")["user_config"].update(max_batch_size=9),
        ["user_config.max_batch_size of 'shapes' is 9", "at most 8"],
    ),
    "autoscaling with gathering": (
        lambda config: deployment(config, "Preprocessor").update(autoscaling_config={"max_replicas": 4}),
        ["Deployment 'Preprocessor' is autoscaled", "set gathering to null in args", "LatencyPolicy"],
    ),
    "a misspelt key of the policy": (
        autoscale("shapes", policy=policy_of(target_latency_s=0.2, hold_down=3)),
        ["In the policy of deployment 'shapes', policy_kwargs has no key 'hold_down'", "hold_down_s"],
    ),
    "a target below nought": (
        autoscale("shapes", policy=policy_of(target_latency_s=-1)),
        ["policy_kwargs.target_latency_s is -1, but must be a number from 0.001 to 600"],
    ),
    "a policy that is not there": (
        autoscale("shapes", policy={"policy_function": "deployments.autoscaling:Latency"}),
        ["A policy_function cannot be imported", "has no attribute 'Latency'", "own is 'deployments.autoscaling:"],
    ),
    "a policy of no module": (
        autoscale("shapes", policy={"policy_function": "autoscale.latency"}),
        ["A policy_function cannot be imported", "No module named 'autoscale'"],
    ),
    "Serve's delay on top of the policy's": (
        autoscale("shapes", upscale_delay_s=30),
        ["Deployment 'shapes' has upscale_delay_s 30", "it must be 0"],
    ),
    "Serve's default delay on top of the policy's": (
        lambda config: (
            autoscale("shapes")(config),
            deployment(config, "shapes")["autoscaling_config"].pop("downscale_delay_s"),
        ),
        ["Deployment 'shapes' has downscale_delay_s 600", "it must be 0"],
    ),
    "a look-back that sees too little": (
        autoscale("shapes", look_back_period_s=2),
        ["Deployment 'shapes' has look_back_period_s 2", "at least 3, 3 x metrics_interval_s"],
    ),
    "more replicas than calls": (
        autoscale("shapes", max_replicas=5),
        ["'shapes' has max_replicas 5", "gathering.max_calls 4 of 1 Ingress replicas", "raise max_calls to 5"],
    ),
    "the policy for an Ingress": (
        autoscale("Ingress"),
        ["Deployment 'Ingress' has LatencyPolicy, but reports no figures"],
    ),
    "no Ingress at all": (
        lambda config: deployment(config, "Ingress").update(autoscaling_config={"min_replicas": 0, "max_replicas": 2}),
        ["Deployment 'Ingress' has min_replicas 0", "nobody is there to connect to"],
    ),
    "fewer replicas at most than at least": (
        autoscale("shapes", min_replicas=5),
        ["'shapes'", "max_replicas (4) must be greater than or equal to min_replicas (5)"],
    ),
    "automatic replicas with gathering": (
        lambda config: deployment(config, "shapes").update(num_replicas="auto"),
        ["Deployment 'shapes' is autoscaled", "set gathering to null in args"],
    ),
    "an HTTP port too high": (
        lambda config: config["http_options"].update(port=65536),
        ["The key 'http_options.port' has the value 65536", "between 1 and 65535"],
    ),
    "an HTTP port of nought": (
        lambda config: config["http_options"].update(port=0),
        ["The key 'http_options.port' has the value 0", "between 1 and 65535"],
    ),
    "a negative gRPC port": (
        lambda config: config["grpc_options"].update(port=-1),
        ["The key 'grpc_options.port' has the value -1", "between 1 and 65535"],
    ),
    "every address without keys": (
        lambda config: config["http_options"].update(host="0.0.0.0"),
        ["would listen on http_options.host '0.0.0.0'", "access.keys_file", "access.open_to_all"],
    ),
    "Serve's own address, which is every one, without keys": (
        lambda config: config["http_options"].pop("host"),
        ["would listen on http_options.host '0.0.0.0'"],
    ),
    "keys and nobody asked for them": (
        lambda config: application(config)["args"].update(access={"keys_file": "keys", "open_to_all": True}),
        ["access.keys_file, access.keys_env and access.open_to_all only one"],
    ),
    "a servicer of no module": (
        lambda config: config["grpc_options"].update(grpc_servicer_functions=["grpc_helth.add"]),
        ["'grpc_options.grpc_servicer_functions' has the value 'grpc_helth.add'", "cannot be imported"],
    ),
    "a servicer that its module lacks": (
        lambda config: config["grpc_options"].update(grpc_servicer_functions=["grpc_health.v1.health_pb2_grpc.add"]),
        ["has the value 'grpc_health.v1.health_pb2_grpc.add'", "cannot be imported"],
    ),
    "a servicer that is no function": (
        lambda config: config["grpc_options"].update(grpc_servicer_functions=["grpc_health.v1.health_pb2_grpc"]),
        ["has the value 'grpc_health.v1.health_pb2_grpc'", "path of a function"],
    ),
}


@pytest.mark.parametrize(("change", "parts"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_said_in_one_sentence(tmp_path: Path, change: Change, parts: list[str]) -> None:
    path = changed(tmp_path, change)
    sentence = sentence_of(lambda: check_config(path))
    for part in parts:
        assert part in sentence


TEXTS: dict[str, tuple[str, str]] = {
    "a key twice at the top": (
        f"{LOCAL}\nproxy_location: EveryNode\n",
        f"The key 'proxy_location' on line {LOCAL.count(chr(10)) + 2} is there already",
    ),
    "a key twice further down": (
        LOCAL.replace("  port: 8000\n", "  port: 8000\n  port: 8001\n"),
        "The key 'port' on line",
    ),
    "a key twice in args": (
        LOCAL.replace("          precision: fp32\n", "          precision: fp32\n          precision: bf16\n"),
        "The key 'precision' on line",
    ),
    "invalid YAML": (f"{LOCAL}\n  - [", "The config is not valid YAML: "),
    "an empty file": ("", "has the value None: Input should be a valid dictionary"),
    "a list": ("- 1\n", "has the value [1]: Input should be a valid dictionary"),
}


@pytest.mark.parametrize(("text", "part"), TEXTS.values(), ids=TEXTS)
def test_a_fault_of_the_text_is_said_in_one_sentence(tmp_path: Path, text: str, part: str) -> None:
    path = write(tmp_path, text)
    assert part in sentence_of(lambda: check_config(path))


def test_bytes_that_are_no_text_are_said_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xff\xfe\xfd")
    assert "The config is not valid YAML: " in sentence_of(lambda: check_config(path))


def test_a_missing_file_is_said_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "absent.yaml"
    sentence = sentence_of(lambda: check_config(path))
    assert sentence == f"The config {str(path)!r} cannot be read: No such file or directory."


def test_merged_keys_may_be_overridden(tmp_path: Path) -> None:
    # YAML's way to say one thing once: the merged key stands in another mapping.
    path = write(tmp_path, LOCAL.replace("ray_actor_options:\n", "ray_actor_options:\n          <<: {num_cpus: 0.2}\n"))
    options = check_config(path).applications[0].deployments[0].ray_actor_options
    assert options.num_cpus == 0.1


def test_the_command_names_each_file_and_fails_for_one_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = changed(tmp_path, lambda config: application(config).update(name="default"))
    good = ROOT / "configs/local.yaml"
    assert main([str(good)]) == 0
    assert main([str(wrong), str(good)]) == 1
    said = capsys.readouterr()
    assert said.out == f"{good}: ok\n{good}: ok\n"
    assert said.err.startswith(f"{wrong}: The application must be named")
