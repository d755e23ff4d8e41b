"""What became of every request, and what it should have come to."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.soak.questions import Question

# answered   rightly: with each image's own probabilities, or with the refusal that the request deserves
# refused    503 or 429, RESOURCE_EXHAUSTED, or UNAVAILABLE from the server: come again later
# expired    408 or DEADLINE_EXCEEDED: there was no time for it
# left       by the client, which did not wait
# lost       no answer within the client's patience, or a connection that broke
# wrong      200 with something else than the answer
# failed     any other status than the right one
Fate = Literal["answered", "refused", "expired", "left", "lost", "wrong", "failed"]
FATES: tuple[Fate, ...] = ("answered", "refused", "expired", "left", "lost", "wrong", "failed")
HONEST: tuple[Fate, ...] = ("answered", "refused", "expired", "left")
BAD: tuple[Fate, ...] = ("lost", "wrong", "failed")
# Kinds of requests that have so little time, or are so many at once, that few of them need be answered.
HASTY = ("bursts", "hurry over HTTP", "hurry over gRPC")
# By the codes of images that were refused one by one.
REFUSED_CODES, EXPIRED_CODES = ("overloaded", "quota_exceeded", "model_not_ready"), ("deadline_exceeded",)
EXAMPLES = 40

Judgement = tuple[Fate, str]  # and what came instead of the answer, for people


@dataclass
class Ledger:
    started: float = field(default_factory=time.monotonic)
    fates: dict[str, Counter[Fate]] = field(default_factory=dict)
    # Requests that ended in each second since the start, by fate.
    seconds: dict[int, Counter[Fate]] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    def record(self, kind: str, judgement: Judgement) -> None:
        fate, detail = judgement
        at_s = time.monotonic() - self.started
        self.fates.setdefault(kind, Counter())[fate] += 1
        self.seconds.setdefault(int(at_s), Counter())[fate] += 1
        if fate in BAD and len(self.examples) < EXAMPLES:
            self.examples.append(f"{at_s:7.1f} s  {fate:8} {kind}: {detail}")

    def count(self, *fates: Fate) -> int:
        return sum(counts[fate] for counts in self.fates.values() for fate in fates)

    def sent(self) -> int:
        return sum(counts.total() for counts in self.fates.values())


def judged(
    questions: Sequence[Question], found: Sequence[Mapping[str, float] | str], labels: int, *, one_by_one: bool
) -> Judgement:
    """Of an answer that came: each image's own probabilities, or the code of its own refusal, in the order sent."""
    codes = [each for each in found if isinstance(each, str)]
    if any(code in REFUSED_CODES for code in codes):
        return "refused", "one by one"
    if any(code in EXPIRED_CODES for code in codes):
        return "expired", "one by one"
    if len(found) != len(questions):
        return "wrong", f"{len(found)} answers to {len(questions)} images"
    for question, each in zip(questions, found, strict=True):
        if isinstance(each, str):
            if each != question.refusal or not one_by_one:
                return "failed", f"{question.name}: {each}"
        elif question.refusal is not None or not question.is_answered_by(each, labels):
            return "wrong", f"{question.name}: {each} in place of {question.answer or question.refusal}"
    return "answered", ""
