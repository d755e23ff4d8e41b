"""grpc.health.v1 with the stock stub."""

from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.local_graph import Graph

SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
def stub(graph: Graph) -> Iterator[health_pb2_grpc.HealthStub]:
    with grpc.insecure_channel(graph.grpc_address) as channel:
        yield health_pb2_grpc.HealthStub(channel)


@pytest.mark.parametrize("service", ["", "shapes", "colours"])
def test_the_service_and_each_model_are_serving(stub: health_pb2_grpc.HealthStub, service: str) -> None:
    assert stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status == SERVING


def test_an_unknown_model_is_not_found(stub: health_pb2_grpc.HealthStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="cats"), timeout=10)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_what_is_not_implemented_says_so(stub: health_pb2_grpc.HealthStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Watch(health_pb2.HealthCheckRequest(), timeout=10))
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
