"""grpc.health.v1, the health check that load balancers and Kubernetes speak.

Specified in github.com/grpc/grpc, doc/health-checking.md.
"""

from collections.abc import Mapping
from typing import NoReturn, Protocol

import grpc
from grpc_health.v1 import health_pb2

from deployments.errors import ApertureError
from deployments.messages import ModelInfo


class Context(Protocol):
    def set_code(self, code: grpc.StatusCode) -> None: ...
    def set_details(self, details: str) -> None: ...


class Unimplemented(ApertureError):
    http_status = 501
    grpc_status = "UNIMPLEMENTED"
    code = "unimplemented"


def check(
    request: health_pb2.HealthCheckRequest, models: Mapping[str, ModelInfo | None], context: Context
) -> health_pb2.HealthCheckResponse:
    """SERVING once every model is warm; `service` may name one model instead. An unknown name is NOT_FOUND."""
    if request.service and request.service not in models:
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details(f"There is no model {request.service!r}.")
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
    asked = [models[request.service]] if request.service else list(models.values())
    serving = all(info is not None for info in asked)
    status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
    return health_pb2.HealthCheckResponse(status=status)


def refuse(method: str, context: Context) -> NoReturn:
    """Serve answers INTERNAL for a method that is not there; this says what is true."""
    context.set_code(grpc.StatusCode.UNIMPLEMENTED)
    context.set_details(f"{method} is not implemented; use Check.")
    raise Unimplemented(f"{method} is not implemented; use Check.")
