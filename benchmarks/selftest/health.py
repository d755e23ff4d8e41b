"""Health and metadata: what load balancers and clients ask before anything else."""

from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.selftest.checks import Skipped, Topic, demand
from benchmarks.selftest.deployment import Deployment
from benchmarks.selftest.judging import content_of
from benchmarks.selftest.protocols import CALL_S, without_grpc
from benchmarks.selftest.service import Service
from deployments.protocols.generated import inference_pb2

HEALTH = Topic("health")
# What /openapi.json has at least.
ROUTES = ("/predict", "/v2/health/ready")


@HEALTH.claim("200, without a key")
async def the_service_is_alive_and_ready(deployment: Deployment) -> str:
    anybody = Service(deployment.service.url, None, None)
    for path in ("/v2/health/live", "/v2/health/ready"):
        response = await anybody.get(path)
        demand(response.status == 200, f"{path}: {response.status}")
    return "200 and 200"


@HEALTH.claim("SERVING, live and ready")
async def grpc_says_so_too(deployment: Deployment) -> str:
    without_grpc(deployment)
    async with deployment.service.channel() as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=CALL_S)
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    demand(status == "SERVING", status)
    async with deployment.service.stubs() as stubs:
        live = await stubs.inference.ServerLive(inference_pb2.ServerLiveRequest(), timeout=CALL_S)
        ready = await stubs.inference.ServerReady(inference_pb2.ServerReadyRequest(), timeout=CALL_S)
    demand(live.live and ready.ready, f"live {live.live}, ready {ready.ready}")
    return "SERVING, live and ready"


@HEALTH.claim("labels, tensors, versions")
async def the_metadata_describes_the_model(deployment: Deployment) -> str:
    model = deployment.model
    demand(bool(model.labels and model.inputs and model.outputs and model.versions), f"{model}")
    config = content_of(await deployment.service.get(f"/v2/models/{model.name}/config"))
    demand(config["max_batch_size"] >= 1, f"max_batch_size {config['max_batch_size']}")
    return f"{len(model.labels)} labels, {len(model.inputs)} inputs, version {', '.join(model.versions)}"


@HEALTH.claim("AVAILABLE, the same versions")
async def tensorflows_status_says_the_same(deployment: Deployment) -> str:
    path = f"/v1/models/{deployment.model.name}"
    statuses = content_of(await deployment.service.get(path))["model_version_status"]
    available = {each["version"] for each in statuses if each["state"] == "AVAILABLE"}
    demand(
        available == set(deployment.model.versions), f"{sorted(available)} against {list(deployment.model.versions)}"
    )
    described = content_of(await deployment.service.get(f"{path}/metadata"))["model_spec"]["version"]
    demand(described in available, f"version {described} in the metadata")
    return f"version {', '.join(sorted(available))}"


@HEALTH.claim("the same as over HTTP")
async def metadata_over_grpc_are_the_same(deployment: Deployment) -> str:
    without_grpc(deployment)
    model = deployment.model
    async with deployment.service.stubs() as stubs:
        request = inference_pb2.ModelMetadataRequest(name=model.name)
        answer = await stubs.inference.ModelMetadata(request, timeout=CALL_S)
    demand(list(answer.versions) == list(model.versions), f"versions {list(answer.versions)}")
    demand([each.name for each in answer.inputs] == list(model.inputs), "other inputs")
    return f"version {', '.join(answer.versions)}"


@HEALTH.claim("OpenAPI 3.1 with its routes")
async def the_service_describes_itself(deployment: Deployment) -> str:
    response = await deployment.service.get("/openapi.json")
    if response.status == 404:
        raise Skipped("pages.docs is off")
    content = content_of(response)
    lacking = [route for route in ROUTES if route not in content["paths"]]
    demand(str(content["openapi"]).startswith("3.1") and not lacking, f"{content['openapi']}, without {lacking}")
    return f"{content['openapi']}, {len(content['paths'])} paths"
