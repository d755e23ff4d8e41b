"""What every gRPC service shares: where its methods find the data plane, and errors as status codes.

Serve dispatches an RPC to the Ingress method of the same name, so the methods of each service are a base class of it.
"""

from typing import NoReturn, Protocol, TypeVar

import grpc

from deployments.errors import ApertureError
from deployments.messages import DataPlane

Message = TypeVar("Message")


class Context(Protocol):
    def set_code(self, code: grpc.StatusCode) -> None: ...
    def set_details(self, details: str) -> None: ...


class Rpcs:
    """Base of the services."""

    plane: DataPlane


class Unimplemented(ApertureError):
    http_status = 501
    grpc_status = "UNIMPLEMENTED"
    code = "unimplemented"


def refused(error: ApertureError, context: Context, response: Message) -> Message:
    """`response`, which the client does not see, with the status of `error`, which it does.

    Returned and not raised: an exception would be logged and counted as a failure of the replica.
    """
    context.set_code(grpc.StatusCode[error.grpc_status])
    context.set_details(error.message)
    return response


def unimplemented(method: str, context: Context) -> NoReturn:
    """Serve answers INTERNAL for a method that is not there; this says what is true."""
    error = Unimplemented(f"{method} is not implemented.")
    refused(error, context, None)
    raise error
