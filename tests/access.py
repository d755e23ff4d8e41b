"""What tests of access ask: with which status a service answers, and from where."""

import socket
from collections.abc import Sequence

import grpc
import pytest

from deployments.protocols.generated import inference_pb2 as pb
from deployments.protocols.generated import inference_pb2_grpc


def own_address() -> str:
    """An address of this machine that others can reach, too; what connects to it comes from it. Skips without one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: this only asks for a route, to an address for documentation (RFC 5737).
            probe.connect(("198.51.100.1", 9))
        except OSError:
            pytest.skip("This machine has no address but its own.")
        address: str = probe.getsockname()[0]
        return address


def grpc_status(address: str, metadata: Sequence[tuple[str, str]] = ()) -> grpc.StatusCode:
    """How inference.GRPCInferenceService/ServerMetadata ends, which asks for any key."""
    with grpc.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            stub.ServerMetadata(pb.ServerMetadataRequest(), metadata=metadata, timeout=20)
        except grpc.RpcError as err:
            code: grpc.StatusCode = err.code()
            return code
        return grpc.StatusCode.OK
