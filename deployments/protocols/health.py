"""grpc.health.v1, the health check that load balancers and Kubernetes speak.

Specified in github.com/grpc/grpc, doc/health-checking.md.
"""

from grpc_health.v1 import health_pb2

from deployments.errors import UnknownModel
from deployments.protocols.rpc import Context, Rpcs, refused, unimplemented


class HealthRpcs(Rpcs):
    """grpc.health.v1.Health."""

    async def Check(
        self, request: health_pb2.HealthCheckRequest, grpc_context: Context
    ) -> health_pb2.HealthCheckResponse:
        """SERVING once every model is warm; `service` may name one model instead. An unknown name is NOT_FOUND."""
        answer = health_pb2.HealthCheckResponse
        models = self.plane.ready_models()
        if request.service and request.service not in models:
            error = UnknownModel(f"There is no model {request.service!r}.")
            return refused(error, grpc_context, answer(status=answer.SERVICE_UNKNOWN))
        asked = [models[request.service]] if request.service else list(models.values())
        serving = all(info is not None for info in asked)
        return answer(status=answer.SERVING if serving else answer.NOT_SERVING)

    async def Watch(self, request: health_pb2.HealthCheckRequest, grpc_context: Context) -> None:
        unimplemented("Watch", grpc_context)

    async def List(self, request: health_pb2.HealthListRequest, grpc_context: Context) -> None:
        unimplemented("List", grpc_context)
