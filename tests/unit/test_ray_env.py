"""The environment of one machine's service."""

import socket
import sys

import pytest

from scripts.ray_env import production_profile

PORTS = (
    "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT",
    "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
)


@pytest.mark.skipif(sys.platform != "linux", reason="HAProxy comes with Ray on Linux alone")
@pytest.mark.parametrize("variable", PORTS)
def test_two_services_of_a_machine_share_no_port_behind_haproxy(variable: str) -> None:
    first = production_profile(on_one_machine=True)
    with socket.create_server(("127.0.0.1", int(first[variable]))):
        second = production_profile(on_one_machine=True)
    assert not {first[port] for port in PORTS} & {second[port] for port in PORTS}
