"""Refusals for want of room over gRPC say when to try again, beside what is in the trailing metadata already."""

import grpc
import pytest

from deployments.errors import ApertureError, ModelNotReady, Overloaded, QuotaExceeded, UnknownModel
from deployments.protocols.rpc import refused


class Context:
    """What refused() uses of Serve's context."""

    def __init__(self) -> None:
        self.metadata = [("request_id", "test-id")]
        self.code: grpc.StatusCode | None = None

    def trailing_metadata(self) -> list[tuple[str, str]]:
        return self.metadata

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str]]) -> None:
        # Serve keeps the id whatever it is given (ray.serve.grpc_util, RayServegRPCContext).
        self.metadata = [("request_id", "test-id"), *trailing_metadata]

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None: ...


@pytest.mark.parametrize(
    ("error", "status", "milliseconds"),
    [
        (Overloaded("Full.", 1.234), "RESOURCE_EXHAUSTED", "1234"),
        (Overloaded("Full.", 0.0), "RESOURCE_EXHAUSTED", "1"),
        (QuotaExceeded("Enough.", 2.0), "RESOURCE_EXHAUSTED", "2000"),
        (ModelNotReady("Not yet.", 5.0), "UNAVAILABLE", "5000"),
    ],
)
def test_the_hint_is_in_the_trailing_metadata_with_the_request_id(
    error: ApertureError, status: str, milliseconds: str
) -> None:
    context = Context()
    refused(error, context, None)  # type: ignore[arg-type]
    assert context.code == grpc.StatusCode[status]
    assert context.metadata == [("request_id", "test-id"), ("grpc-retry-pushback-ms", milliseconds)]


@pytest.mark.parametrize("error", [UnknownModel("There is none."), Overloaded("Full.")], ids=["no room", "no hint"])
def test_what_has_no_hint_adds_nothing(error: ApertureError) -> None:
    context = Context()
    refused(error, context, None)  # type: ignore[arg-type]
    assert context.metadata == [("request_id", "test-id")]
