"""Whether an answer is the right one, or a refusal an honest one."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks.http_client import Response
from benchmarks.selftest.checks import Broken, demand
from benchmarks.soak.questions import Question

# Of each probability, for one image at a time: float32 as a decimal in one protocol and as bytes in another.
TOLERANCE: Final = 1e-5
# With other images in the batch, which changes the order of sums (benchmarks.soak.questions.TOLERANCE), in float32 and
# below it (settings.Tolerance.max_probability_difference).
BATCHED_TOLERANCE: Final[Mapping[str, float]] = {"fp32": 1e-3}
LOW_PRECISION_TOLERANCE: Final = 0.02
# Without configs/ray.env, Ray Serve itself ends a request when its client's time is over (ray.serve._private.replica,
# deployments/edge.py).
SERVES_WORDS: Final = b"timed out after"
# Of a refusal: enough to recognise it.
SHOWN_CHARACTERS: Final = 90


def content_of(response: Response) -> Any:
    """The JSON of an answer. Raises Broken unless its status is 200."""
    demand(response.status == 200, told(response))
    return parsed(response.body)


def parsed(body: bytes) -> Any:
    """Raises Broken for what is no JSON."""
    try:
        return json.loads(body)
    except ValueError:
        raise Broken(f"no JSON: {body[:SHOWN_CHARACTERS]!r}") from None


def refused(response: Response, statuses: Sequence[int]) -> str:
    """Status and code of a refusal in the service's own words. Raises Broken for anything else."""
    demand(response.status in statuses, told(response))
    if response.status == 408 and SERVES_WORDS in response.body:
        return "408 of Ray Serve"
    body = parsed(response.body)
    demand(isinstance(body, dict) and {"error", "code", "request_id"} <= body.keys(), told(response))
    demand(body["error"] not in ("", None) and b"Traceback" not in response.body, told(response))
    return f"{response.status} {body['code']}"


def named_limit(response: Response) -> int | None:
    """The number of bytes in the sentence of a 413."""
    named = re.search(rb"(\d+) bytes", response.body) if response.status == 413 else None
    return None if named is None else int(named[1])


def is_beyond_limit(response: Response, sent: bytes) -> bool:
    """Whether it was refused because the operator allows less than what this test sends."""
    limit = named_limit(response)
    return limit is not None and len(sent) > limit


def told(response: Response) -> str:
    text = response.body[:SHOWN_CHARACTERS].decode(errors="replace")
    return f"{response.status} {' '.join(text.split())}".strip()


def agrees(found: Sequence[Mapping[str, float] | str], questions: Sequence[Question], tolerance: float) -> float:
    """The largest difference from the first answers to `questions`. Raises Broken if that is more than `tolerance`."""
    demand(len(found) == len(questions), f"{len(found)} answers to {len(questions)} images")
    return max(_difference(each, question, tolerance) for each, question in zip(found, questions, strict=True))


def _difference(found: Mapping[str, float] | str, question: Question, tolerance: float) -> float:
    if isinstance(found, str):
        raise Broken(f"{question.name}: {found}")
    known = [value for value in question.answer.values() if not math.isnan(value)]
    demand(len(known) == len(question.answer), f"{question.name}: its first answer was none, to compare with")
    strangers = found.keys() - question.answer.keys()
    demand(bool(found) and not strangers, f"{question.name}: labels {sorted(strangers)}")
    worst = max(found, key=lambda label: abs(found[label] - question.answer[label]))
    difference = abs(found[worst] - question.answer[worst])
    # Also for NaN.
    if not difference <= tolerance:
        raise Broken(f"{question.name}: {worst} is {found[worst]:.6f}, and was {question.answer[worst]:.6f}")
    return difference


def batched_tolerance(precision: str) -> float:
    return BATCHED_TOLERANCE.get(precision, LOW_PRECISION_TOLERANCE)
