"""What every gRPC service shares: where its methods find the data plane, and errors as status codes.

Serve dispatches an RPC to the Ingress method of the same name, so the methods of each service are a base class of it.

Serve hides the client's deadline from the method: gRPC keeps it out of the metadata, and the context that Serve hands
on has no time_remaining(). When it passes, or the client cancels, gRPC cancels the call: the method gets a
CancelledError, and with it all that it waits for. What is in a batch by then is computed for nobody. A client that
wants what cannot be ready in time to be dropped before that says so in its metadata, as x-request-timeout-seconds
(patience.py).
"""

import functools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, NoReturn, Protocol, TypeVar

import grpc

from deployments.access import AccessControl
from deployments.errors import ApertureError, BodyTooLarge, Overloaded
from deployments.messages import DataPlane
from deployments.protocols.addressing import ROUTING_KEY, begin, names_of_answer
from deployments.protocols.authentication import admit_rpc
from deployments.protocols.naming import protocol_of_rpc
from deployments.protocols.patience import TIMEOUT_HEADER, Patience, patience_of
from deployments.protocols.request_ids import made_safe
from deployments.protocols.traced import rpc_failed, rpc_succeeded, traced_rpc
from deployments.records import Record, current, opened
from deployments.settings import Limits

logger = logging.getLogger("ray.serve")

Message = TypeVar("Message")
# Details travel in an HTTP/2 header, each byte beyond ASCII as three; clients and proxies take 8 KiB of headers in all.
MAX_DETAILS = 500
# In the trailing metadata, where Serve puts it.
REQUEST_ID = "request_id"
# Milliseconds after which a client that tries again may do so: gRFC A6, section "Pushback".
PUSHBACK = "grpc-retry-pushback-ms"
OK: Final[int] = grpc.StatusCode.OK.value[0]


class Context(Protocol):
    def invocation_metadata(self) -> Sequence[tuple[str, str]]: ...
    def peer(self) -> str: ...
    def set_code(self, code: grpc.StatusCode) -> None: ...
    def set_details(self, details: str) -> None: ...
    def trailing_metadata(self) -> Sequence[tuple[str, str]]: ...
    def set_trailing_metadata(self, trailing_metadata: Sequence[tuple[str, str]]) -> None: ...


class Rpcs:
    """Base of the services."""

    plane: DataPlane
    access: AccessControl


class Unimplemented(ApertureError):
    http_status = 501
    grpc_status = "UNIMPLEMENTED"
    code = "unimplemented"


Method = Callable[[Any, Any, Context], Awaitable[Any]]


def rpc(response: Callable[[], Any]) -> Callable[[Callable[[Any, Any], Awaitable[Any]]], Method]:
    """Makes `async def Method(self, request)` of an Rpcs an RPC that Serve finds, its errors statuses.

    `response`: the type of the answer. A request larger than max_body_bytes of the limits is INVALID_ARGUMENT.
    """

    def decorate(method: Callable[[Any, Any], Awaitable[Any]]) -> Method:
        @functools.wraps(method)
        async def untimed(self: Rpcs, request: Any, patience: Patience) -> Any:
            return await method(self, request)

        return timed_rpc(response)(untimed)

    return decorate


def timed_rpc(response: Callable[[], Any]) -> Callable[[Callable[[Any, Any, Patience], Awaitable[Any]]], Method]:
    """As `rpc` for a method that takes time, `async def Method(self, request, patience)`."""

    def decorate(method: Callable[[Any, Any, Patience], Awaitable[Any]]) -> Method:
        @functools.wraps(method)
        async def answer(self: Rpcs, request: Any, grpc_context: Context) -> Any:
            with traced_rpc(method.__name__, request, grpc_context), recorded(method.__name__, grpc_context):
                try:
                    admit_rpc(self.access, method.__name__, grpc_context)
                    check_size(request, self.plane.limits)
                    route(grpc_context)
                    answered = await method(self, request, patience_with(grpc_context, self.plane.limits))
                    add_trailing_metadata(grpc_context, {**names_of_answer(), **rpc_succeeded()})
                    current().status = OK
                    return answered
                except Exception as error:
                    return refused(visible(error, grpc_context), grpc_context, response())

        # Serve reads the signature to see whether there is a grpc_context, and would look through the wrapper.
        del answer.__wrapped__
        return answer

    return decorate


def unserved(name: str, response: Callable[[], Any]) -> Method:
    """An RPC of the service that says that it is not there; of a method that is missing Serve says INTERNAL."""

    async def refuse(self: Rpcs, request: Any) -> NoReturn:
        raise Unimplemented(f"{name} is not implemented.")

    refuse.__name__ = name
    return rpc(response)(refuse)


def patience_with(context: Context, limits: Limits) -> Patience:
    """Of the client of a call that has just come. Raises BadRequest."""
    return patience_of([value for key, value in context.invocation_metadata() if key == TIMEOUT_HEADER], limits)


def visible(error: Exception, context: Context) -> ApertureError:
    """What the client may see of it. Anything but an ApertureError is logged, and found there by the request's id."""
    if isinstance(error, ApertureError):
        return error
    request_id = request_id_of(context)
    logger.error("Request %s failed", request_id, exc_info=error)
    return ApertureError(f"The request {request_id} failed because of an internal error.")


def refused(error: ApertureError, context: Context, response: Message) -> Message:
    """`response`, which the client does not see, with the status of `error`, which it does.

    Returned and not raised: an exception would be logged and counted as a failure of the replica.
    """
    note_failure(error)
    if trace := rpc_failed(error):
        add_trailing_metadata(context, trace)
    context.set_code(grpc.StatusCode[error.grpc_status])
    context.set_details(details_of(error))
    if isinstance(error, Overloaded) and error.retry_after_s is not None:
        add_trailing_metadata(context, {PUSHBACK: str(max(1, round(error.retry_after_s * 1000)))})
    return response


def recorded(name: str, context: Context) -> AbstractContextManager[Record]:
    """The record of an RPC of that name, or of one request of a stream of them."""
    return opened(protocol_of_rpc(name), name, request_id_of(context))


def note_failure(error: ApertureError) -> None:
    record = current()
    record.fail(error)
    record.status = grpc.StatusCode[error.grpc_status].value[0]


def route(context: Context, number: int = 0) -> None:
    """Says where a request goes that asks for no version. `number`: of the request in a stream. Raises BadRequest."""
    keys = [value for key, value in context.invocation_metadata() if key == ROUTING_KEY]
    begin(keys, f"{request_id_of(context)}-{number}" if number else request_id_of(context))


def request_id_of(context: Context) -> str:
    return made_safe(dict(context.trailing_metadata()).get(REQUEST_ID, "unknown"))


def add_trailing_metadata(context: Context, more: Mapping[str, str]) -> None:
    # Serve keeps the id of the request by itself, and would send it twice.
    kept = [(key, value) for key, value in context.trailing_metadata() if key != REQUEST_ID]
    context.set_trailing_metadata([*kept, *more.items()])


def details_of(error: ApertureError) -> str:
    """The message, cut where what it repeats of the request is long."""
    return error.message if len(error.message) <= MAX_DETAILS else error.message[: MAX_DETAILS - 3] + "..."


def check_size(request: Any, limits: Limits) -> None:
    """Raises BodyTooLarge. gRPC's own limit is Serve's, the same for every RPC of every service."""
    if request.ByteSize() > limits.max_body_bytes:
        raise BodyTooLarge(f"The request is larger than the {limits.max_body_bytes} bytes that this service accepts.")
