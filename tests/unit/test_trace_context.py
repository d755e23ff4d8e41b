"""W3C Trace Context: what is valid is taken, and what is not is ignored, whatever it is."""

import pytest

from deployments.trace_context import MAX_STATE_CHARACTERS, TraceContext, parsed

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
VALID = f"00-{TRACE}-{SPAN}-01"


def test_a_traceparent_and_its_tracestate_are_taken_as_they_are() -> None:
    context = parsed([VALID], ["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"])
    state = (("rojo", "00f067aa0ba902b7"), ("congo", "t61rcWkgMzE"))
    assert context == TraceContext(int(TRACE, 16), int(SPAN, 16), sampled=True, state=state)
    assert context.traceparent() == VALID


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True), ("ff", True)])
def test_of_the_flags_only_the_one_that_is_known_counts(flags: str, sampled: bool) -> None:
    context = parsed([f"00-{TRACE}-{SPAN}-{flags}"], [])
    assert context is not None
    assert context.sampled == sampled
    assert context.traceparent().endswith("-01" if sampled else "-00")


@pytest.mark.parametrize("later", [f"01-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like"])
def test_a_later_version_is_read_as_far_as_it_is_known(later: str) -> None:
    context = parsed([later], [])
    assert context is not None
    assert context.traceparent() == VALID


INVALID = {
    "empty": "",
    "no trace": f"00-{'0' * 32}-{SPAN}-01",
    "no span": f"00-{TRACE}-{'0' * 16}-01",
    "the version that never is": f"ff-{TRACE}-{SPAN}-01",
    "more than its version has": f"{VALID}-more",
    "a dash behind": f"{VALID}-",
    "digits behind a later version": f"01-{TRACE}-{SPAN}-010",
    "upper case": VALID.upper(),
    "too short": VALID[:-1],
    "another alphabet": f"00-{TRACE}-{SPAN}-\u0660\u0661",
    "not hexadecimal": f"00-{TRACE[:-1]}g-{SPAN}-01",
    "blanks": f" {VALID[:-1]}",
    "a newline": f"{VALID}\n",
    "a text": "x" * 55,
    "far too long": f"01-{TRACE}-{SPAN}-01-" + "a" * 10_000_000,
}


@pytest.mark.parametrize("value", INVALID.values(), ids=INVALID)
def test_what_is_no_traceparent_is_ignored(value: str) -> None:
    assert parsed([value], ["congo=t61rcWkgMzE"]) is None


def test_two_traceparents_are_none() -> None:
    assert parsed([VALID, VALID], []) is None
    assert parsed([], ["congo=t61rcWkgMzE"]) is None


def test_a_tracestate_in_several_headers_is_one() -> None:
    context = parsed([VALID], ["a=1 , b=2", "", "tenant@system=3\t,"])
    assert context is not None
    assert context.state == (("a", "1"), ("b", "2"), ("tenant@system", "3"))


STATES = {
    "no value": "congo",
    "an empty value": "congo=",
    "an empty key": "=t61",
    "a key in upper case": "Congo=t61",
    "a key twice": "a=1,b=2,a=3",
    "a control character": "a=1\x00",
    "a newline": "a=1\nb=2",
    "not ASCII": "a=ä",
    "an equals sign too many": "a=1=2",
    "one member too many": ",".join(f"k{number}=1" for number in range(33)),
    "one wrong among right ones": "a=1,b",
    "one character too long": "a=" + "1" * (MAX_STATE_CHARACTERS - 1),
    "far too long": "a=1," * 1_000_000,
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_a_tracestate_that_is_wrong_is_dropped_and_the_traceparent_is_not(state: str) -> None:
    context = parsed([VALID], [state])
    assert context is not None
    assert context.state == ()
