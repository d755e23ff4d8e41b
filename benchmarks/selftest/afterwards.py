"""Nothing is left behind."""

from benchmarks.selftest.checks import Topic, demand
from benchmarks.selftest.deployment import Deployment, repository_index
from benchmarks.selftest.judging import content_of

AFTERWARDS = Topic("afterwards")


@AFTERWARDS.claim("as at the beginning")
async def the_service_has_the_models_that_it_had(deployment: Deployment) -> str:
    index = await repository_index(deployment.service)
    demand(index == deployment.index, f"{index} in place of {deployment.index}")
    content_of(await deployment.service.get("/v2/health/ready"))
    return f"{len(index)} versions of models, ready"
