"""grpc.health.v1, the health check that load balancers and Kubernetes speak.

Specified in github.com/grpc/grpc, doc/health-checking.md.
"""

from grpc_health.v1 import health_pb2

from deployments.errors import UnknownModel
from deployments.protocols.json_bodies import quoted
from deployments.protocols.rpc import Context, Rpcs, Unimplemented, recorded, refused, rpc, unserved


class HealthRpcs(Rpcs):
    """grpc.health.v1.Health."""

    @rpc(health_pb2.HealthCheckResponse)
    async def Check(self, request: health_pb2.HealthCheckRequest) -> health_pb2.HealthCheckResponse:
        """SERVING once every model is warm, but for those unloaded by request; `service` may name one model instead.

        An unknown name is NOT_FOUND.
        """
        answer = health_pb2.HealthCheckResponse
        models = self.plane.ready_models()
        if request.service and request.service not in models:
            raise UnknownModel(f"There is no model {quoted(request.service)}.")
        serving = models[request.service] is not None if request.service else self.plane.is_ready()
        return answer(status=answer.SERVING if serving else answer.NOT_SERVING)

    async def Watch(self, request: health_pb2.HealthCheckRequest, grpc_context: Context) -> None:
        # Of a stream, Serve's proxies see a status only with an answer or with an exception. Open to everybody, like
        # Check (authentication.py).
        error = Unimplemented("Watch is not implemented.")
        with recorded("Watch", grpc_context):
            refused(error, grpc_context, None)
        raise error

    List = unserved("List", health_pb2.HealthListResponse)
