"""W3C Trace Context (https://www.w3.org/TR/trace-context/): what a request says of the trace that it is part of.

Anybody may send anything. What is not exactly as specified is ignored, as the specification wants it: the request is
answered, in a trace of its own. Pure: this module knows no OpenTelemetry.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
# The draft of Level 3 and OpenTelemetry's own instrumentation; traceparent itself is defined for requests alone.
TRACERESPONSE: Final = "traceresponse"

SAMPLED: Final = 0x01
# Section 3.2: version, trace-id, parent-id, flags; later versions may go on behind another dash.
FORMAT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
CHARACTERS: Final = 55  # of version 00, the one that is sent
# Room for what later versions add.
MAX_CHARACTERS: Final = 256
# What everybody has to pass on (section 3.3.1.5). It travels with every image, so that more is dropped.
MAX_STATE_CHARACTERS: Final = 512
MAX_STATE_MEMBERS: Final = 32
MEMBER: Final = re.compile(
    r"([a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    r"=([\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e])"
)


class TraceContext(NamedTuple):
    """The span that something is part of. `state`: what tracing systems say of it to themselves, latest first."""

    trace_id: int
    span_id: int
    sampled: bool
    state: tuple[tuple[str, str], ...] = ()

    def traceparent(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.sampled):02x}"


def parsed(traceparents: Sequence[str], tracestates: Sequence[str]) -> TraceContext | None:
    """Of the values of the two headers, each as often as it came; None if there is none, or none that is valid."""
    if len(traceparents) != 1 or not CHARACTERS <= len(traceparents[0]) <= MAX_CHARACTERS:
        return None
    match = FORMAT.fullmatch(traceparents[0])
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more is not None) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceContext(int(trace_id, 16), int(span_id, 16), bool(int(flags, 16) & SAMPLED), _state(tracestates))


def _state(values: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Nothing if any of it is wrong, which says nothing against the traceparent."""
    if sum(map(len, values)) + len(values) - 1 > MAX_STATE_CHARACTERS:
        return ()
    members = [member.strip(" \t") for member in ",".join(values).split(",")]
    matches = [MEMBER.fullmatch(member) for member in members if member]
    if not all(matches) or len(matches) > MAX_STATE_MEMBERS:
        return ()
    state = tuple((match[1], match[2]) for match in matches if match)
    return state if len(dict(state)) == len(state) else ()
