"""Triton's own Python clients, unmodified: `tritonclient.http` and `tritonclient.grpc`, which share most names."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import tritonclient.grpc
import tritonclient.http
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.local_graph import Graph

Transport = Literal["http", "grpc"]
APIS: dict[Transport, Any] = {"http": tritonclient.http, "grpc": tritonclient.grpc}


@dataclass(frozen=True)
class Triton:
    transport: Transport
    client: Any

    @property
    def api(self) -> Any:
        return APIS[self.transport]

    def input(self, name: str, values: NDArray[Any], **options: Any) -> Any:
        return tensor(self.api, name, values, **options)

    def infer(self, name: str, values: NDArray[Any], model: str = "shapes", **options: Any) -> Any:
        return self.client.infer(model, [self.input(name, values)], **options)

    def output(self, name: str, **options: Any) -> Any:
        return self.api.InferRequestedOutput(name, **options)

    def describe(self, what: str, *arguments: str) -> Any:
        """get_{what}, as a dict; protobuf's JSON writes 64-bit integers as texts."""
        as_json = {} if self.transport == "http" else {"as_json": True}
        return getattr(self.client, f"get_{what}")(*arguments, **as_json)

    def status(self, error: InferenceServerException) -> str:
        """In the words of gRPC's status codes."""
        codes = {"400": "INVALID_ARGUMENT", "404": "NOT_FOUND"}
        status = str(error.status())
        return codes[status] if self.transport == "http" else status.removeprefix("StatusCode.")


@contextmanager
def connected(transport: Transport, graph: Graph, **options: Any) -> Iterator[Triton]:
    address = graph.address if transport == "http" else graph.grpc_address
    with APIS[transport].InferenceServerClient(address, **options) as client:
        yield Triton(transport, client)


def tensor(api: Any, name: str, values: NDArray[Any], **options: Any) -> Any:
    """An InferInput of `api` with the values, whose dtype says its datatype."""
    made = api.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    made.set_data_from_numpy(values, **options)
    return made
