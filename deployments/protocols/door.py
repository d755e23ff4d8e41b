"""The door in front of a body: what cannot be done in time, or does not fit, is refused before any of it is read.

Which requests infer, and for which model, is read off their path and query alone. What cannot be told from there, such
as an unknown model, is let in, and the route refuses it.
"""

import asyncio
from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qs

from starlette.types import Message, Receive, Scope

from deployments.admission import Admission, Visit
from deployments.protocols.patience import patience_of, timeouts_in
from deployments.settings import Limits

# Protocols that name the model in the query, or not at all (predict.py, explain.py, huggingface.py).
BY_QUERY: Final = frozenset({"/predict", "/explain", "/"})
# Those that name it in the path, and what the path ends with (oip/rest.py, tfserving/rest.py).
BY_PATH: Final = (("/v2/models/", ("/infer",)), ("/v1/models/", (":predict", ":classify")))
# More fields than any request here has.
MAX_FIELDS: Final = 16

# That of this process, while the Ingress is in it.
_open: "Door | None" = None


class Door:
    """`models`: their names, the default one first. What exceeds the limits is for others to refuse."""

    def __init__(self, admission: Admission, models: Sequence[str], limits: Limits) -> None:
        self._admission = admission
        self._models = models
        self._limits = limits

    def visit_of(self, scope: Scope) -> Visit | None:
        """As `visit`, for whoever does not know the timeout. Raises BadRequest, too."""
        return self.visit(scope, patience_of(timeouts_in(scope["headers"]), self._limits).left_s())

    def visit(self, scope: Scope, timeout_s: float) -> Visit | None:
        """The request whose headers are there and whose caller waits `timeout_s`; None if it infers nothing.

        Raises Overloaded.
        """
        model = self._model_of(scope) if scope["method"] == "POST" else None
        if model is None or (announced := announced_bytes(scope)) > self._limits.max_body_bytes:
            return None
        return self._admission.enter(model, timeout_s, announced)

    def counted(self, receive: Receive, visit: Visit) -> Receive:
        """`receive` that counts what comes, and keeps nothing of what there is no room for."""

        async def counting_receive() -> Message:
            # Whoever reads ahead, as Serve does, need read no more of what is refused.
            if visit.refusal is not None or visit.arrived_bytes > self._limits.max_body_bytes:
                await asyncio.Event().wait()
            message = await receive()
            if message["type"] == "http.request" and not visit.arrive(len(message.get("body", b""))):
                return {"type": "http.request", "body": b"", "more_body": True}
            return message

        return counting_receive

    def _model_of(self, scope: Scope) -> str | None:
        path = path_of(scope)
        if path in BY_QUERY:
            return self._in_query(scope["query_string"])
        for prefix, actions in BY_PATH:
            if path.startswith(prefix) and path.lower().endswith(actions):
                name = path[len(prefix) :].partition("/")[0].partition(":")[0]
                return name if name in self._models else None
        return None

    def _in_query(self, query: bytes) -> str | None:
        if b"model" not in query and b"%" not in query:
            return self._models[0]
        try:
            names = parse_qs(query.decode("latin-1"), max_num_fields=MAX_FIELDS).get("model", [self._models[0]])
        except ValueError:
            return None
        return names[-1] if names[-1] in self._models else None


def open_door(door: Door) -> None:
    """From now on early.py asks there."""
    global _open
    _open = door


def the_door() -> Door | None:
    return _open


def path_of(scope: Scope) -> str:
    """Without the prefix of the application, as far as that is known."""
    path: str = scope["path"][len(scope.get("root_path", "")) :] or "/"
    return path


def announced_bytes(scope: Scope) -> int:
    """The length that the headers announce, or 0."""
    for name, value in scope["headers"]:
        # Longer numbers are no lengths, and Python takes its time to read them.
        if name == b"content-length" and value.isdigit() and len(value) < 16:
            return int(value)
    return 0


def checked(receive: Receive, visit: Visit) -> Receive:
    """`receive` behind `Door.counted` that raises Overloaded once there was no room."""

    async def checking_receive() -> Message:
        message = await receive()
        if visit.refusal is not None:
            raise visit.refusal
        return message

    return checking_receive
