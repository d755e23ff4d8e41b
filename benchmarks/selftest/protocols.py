"""Every protocol answers, and with the same probabilities."""

from functools import partial
from itertools import cycle, islice

from benchmarks.selftest.checks import Skipped, Topic, demand
from benchmarks.selftest.deployment import Deployment
from benchmarks.selftest.judging import TOLERANCE, agrees, batched_tolerance, is_beyond_limit, told
from benchmarks.soak.asking import WAYS, Way
from benchmarks.soak.calling import CALLS, Call
from benchmarks.soak.questions import Question

PROTOCOLS = Topic("protocols")
SAME = "the same probabilities"
# Of a call, as long as the check itself may last.
CALL_S = 30.0
# Which input of the model carries what is sent; the others ask through /predict, which takes images in any case.
NEEDED_INPUTS = {"OIP, binary pixels": "PIXELS", "OIP, binary tensors": "INPUT"}
TENSORS = ("OIP", "TF Serving")


def without_grpc(deployment: Deployment) -> None:
    """Raises Skipped."""
    if deployment.service.grpc_address is None:
        raise Skipped("no --grpc given")


async def _over_http(name: str, way: Way, deployment: Deployment) -> str:
    _check_model_takes(name, deployment)
    questions = _pictures(deployment, way.images)
    asked = way.ask(questions)
    response = await deployment.service.ask(asked.path, asked.body, asked.headers)
    if is_beyond_limit(response, asked.body):
        raise Skipped(f"{len(asked.body)} bytes are more than the service takes")
    demand(response.status == 200, told(response))
    return _told(agrees(asked.read(response), questions, _tolerance(deployment, way.images)))


async def _over_grpc(name: str, way: Call, deployment: Deployment) -> str:
    without_grpc(deployment)
    _check_model_takes(name, deployment)
    questions = _pictures(deployment, way.images)
    async with deployment.service.stubs() as stubs:
        found = await way.ask(stubs, questions, CALL_S)
    return _told(agrees(found, questions, _tolerance(deployment, way.images)))


def _pictures(deployment: Deployment, count: int) -> list[Question]:
    return list(islice(cycle(deployment.questions), count))


def _tolerance(deployment: Deployment, images: int) -> float:
    return TOLERANCE if images == 1 else batched_tolerance(deployment.model.precision)


def _told(difference: float) -> str:
    return f"{SAME} to {difference:.0e}" if difference else f"{SAME} exactly"


def _check_model_takes(name: str, deployment: Deployment) -> None:
    """Raises Skipped for tensors that the model does not announce."""
    if not name.startswith(TENSORS):
        return
    needed = NEEDED_INPUTS.get(name, "IMAGE")
    if needed not in deployment.model.inputs:
        raise Skipped(f"the model announces no input {needed}")
    if "PROBABILITIES" not in deployment.model.outputs and "classify" not in name:
        raise Skipped("the model announces no output PROBABILITIES")


for _name, _way in WAYS.items():
    PROTOCOLS.add(f"{_name}: answers as the others", SAME, partial(_over_http, _name, _way))
for _name, _call in CALLS.items():
    PROTOCOLS.add(f"{_name}: answers as the others", SAME, partial(_over_grpc, _name, _call))
