"""configs/gpu.yaml on several nodes: what runs where, and what becomes of requests when a node dies."""

import copy
import json
import time
from typing import Any

from tests.awaiting import await_condition
from tests.nodes.conftest import HEAD_NODE_ID, ROOT, Fleet
from tests.nodes.load import Request, running_load

HEART = ROOT / "examples/pictures/heart.jpg"
CLIENTS = 6
LOAD_TIMEOUT_S = 30.0
REPLACED_TIMEOUT_S = 90.0
FAILED_TIMEOUT_S = 90.0


def test_every_replica_is_on_a_node_of_its_kind(fleet: Fleet) -> None:
    nodes = fleet.nodes()
    where = {name: [nodes[replica["node_id"]] for replica in fleet.running(name)] for name in deployments(fleet)}
    assert where == {
        "Ingress": [{"CPU": 4, "GPU": 0}],
        "Preprocessor": [{"CPU": 4, "GPU": 0}],
        "shapes": [{"CPU": 0, "GPU": 1}] * 2,
    }


def test_the_head_runs_no_replica(fleet: Fleet) -> None:
    assert fleet.nodes()[HEAD_NODE_ID] == {"CPU": 0, "GPU": 0}
    assert HEAD_NODE_ID not in {replica["node_id"] for replica in fleet.ask("replicas")}


def test_each_gpu_has_one_classifier(fleet: Fleet) -> None:
    assert len({replica["node_id"] for replica in fleet.running("shapes")}) == 2


def test_device_auto_says_in_the_log_that_it_fell_back_to_the_cpu(fleet: Fleet) -> None:
    for replica in fleet.running("shapes"):
        log = (fleet.logs / replica["log_file_path"].lstrip("/")).read_text()
        (line,) = [
            line for line in log.splitlines() if "Model shapes runs on the CPU: no CUDA device is visible" in line
        ]
        assert line.startswith("WARNING")


def test_a_gpu_node_that_dies_is_replaced_and_no_request_fails(fleet: Fleet) -> None:
    lost = fleet.running("shapes")[0]["node_id"]
    with running_load(fleet.url, HEART.read_bytes(), CLIENTS) as load:
        await_condition(lambda: load.answered() >= 2 * CLIENTS, LOAD_TIMEOUT_S, "all clients are answered")
        fleet.ask("kill_node", lost)
        await_condition(lambda: is_replaced(fleet, lost), REPLACED_TIMEOUT_S, "the node is replaced")
        replaced = time.monotonic()
        await_condition(lambda: load.answered(replaced) >= CLIENTS, LOAD_TIMEOUT_S, "all clients are answered again")
    failed = [request for request in load.requests if request.status != 200 and not is_honest_refusal(request)]
    # Serve repeats no call that a replica has accepted, but the data plane does.
    assert [(request.status, code_of(request)) for request in failed] == []


def test_device_cuda_fails_on_a_node_whose_gpu_is_not_there(fleet: Fleet) -> None:
    fleet.ask("deploy_config", with_cuda(fleet.config))
    await_condition(lambda: failure(fleet) != "", FAILED_TIMEOUT_S, "the deployment fails")
    assert "ConfigError: Model 'shapes' has device 'cuda', but no CUDA device is visible" in failure(fleet)
    assert len(fleet.running("shapes")) == 2


def deployments(fleet: Fleet) -> set[str]:
    return {replica["deployment"] for replica in fleet.ask("replicas")}


def is_replaced(fleet: Fleet, lost: str) -> bool:
    nodes = {replica["node_id"] for replica in fleet.running("shapes")}
    return len(nodes) == 2 and lost not in nodes and all(fleet.nodes()[node]["GPU"] == 1 for node in nodes)


def is_honest_refusal(request: Request) -> bool:
    return request.status == 503


def code_of(request: Request) -> str:
    return str(json.loads(request.body)["code"]) if request.status else request.body


def with_cuda(config: dict[str, Any]) -> dict[str, Any]:
    """The config with a second application, whose model insists on a GPU; small enough for the nodes that are there."""
    config = copy.deepcopy(config)
    application = copy.deepcopy(config["applications"][0])
    application.update(name="insisting", route_prefix="/insisting")
    application["args"]["models"][0]["device"] = "cuda"
    ingress, preprocessor, classifier = application["deployments"]
    ingress["ray_actor_options"]["num_cpus"] = preprocessor["ray_actor_options"]["num_cpus"] = 0.1
    classifier["autoscaling_config"].update(min_replicas=1, max_replicas=1)
    config["applications"].append(application)
    return config


def failure(fleet: Fleet) -> str:
    """What Serve says once the second application has failed."""
    reports = fleet.ask("messages", "insisting")
    return "\n".join(reports) if reports[0].startswith("DEPLOY_FAILED") else ""
