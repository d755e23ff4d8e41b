"""The best of a search once more, in turns: whoever came first by luck does not do so every time."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import optuna

from benchmarks.tune.candidate import Candidate
from benchmarks.tune.rates import Found
from benchmarks.tune.study import Tried

FINALISTS = 2
# A rate that is better by less may be so by chance: rounds of the same candidate differ by as much.
BY_CHANCE = 1.05
ATTRIBUTE = "finals"


@dataclass(frozen=True)
class Final:
    candidate: Candidate
    found: Found


@dataclass(frozen=True)
class Standing:
    """What a candidate came to over all its rounds; `rounds` is empty where it had none, and `per_second` then what the
    search had found."""

    candidate: Candidate
    rounds: Sequence[Found]
    per_second: float

    @property
    def rates(self) -> list[float]:
        return [found.per_second for found in self.rounds] or [self.per_second]


def finalists(found: Sequence[Tried], as_it_is: Candidate) -> list[Candidate]:
    """The best candidates, without the config as it is."""
    good = [each for each in found if each.per_second and each.candidate != as_it_is]
    return [each.candidate for each in sorted(good, key=lambda each: -each.per_second)[:FINALISTS]]


def play(
    study: optuna.Study,
    candidates: Sequence[Candidate],
    as_it_is: Candidate,
    measure: Callable[[Candidate], Found],
    *,
    rounds: int,
    until_s: float,
    told: Callable[[], object] = lambda: None,
) -> None:
    """Each candidate once in a round, in rotating order, and the config as it is at the end of each. What is found is
    kept with the study. No measurement begins after `until_s` (time.monotonic())."""
    for number in range(rounds):
        shift = number % max(1, len(candidates))
        for candidate in (*candidates[shift:], *candidates[:shift], as_it_is):
            if time.monotonic() > until_s:
                return
            try:
                found = measure(candidate)
            except Exception:  # It did serve before; another round may show it.
                continue
            kept = study.user_attrs.get(ATTRIBUTE, [])
            study.set_user_attr(ATTRIBUTE, [*kept, {"candidate": candidate.record(), "found": found.record()}])
            told()


def played(study: optuna.Study) -> list[Final]:
    return [
        Final(Candidate.from_record(each["candidate"]), Found.from_record(each["found"]))
        for each in study.user_attrs.get(ATTRIBUTE, [])
    ]


def standings(study: optuna.Study, found: Sequence[Tried]) -> list[Standing]:
    """All that were measured, best first: those with rounds by the median of these, then the others, whose single rate
    has luck in it."""
    rounds: dict[Candidate, list[Found]] = {}
    for final in played(study):
        rounds.setdefault(final.candidate, []).append(final.found)
    table = [
        Standing(each.candidate, own, statistics.median(one.per_second for one in own) if own else each.per_second)
        for each in found
        if each.found is not None
        for own in [rounds.get(each.candidate, [])]
    ]
    return sorted(table, key=lambda each: (not each.rounds, -each.per_second))


def chosen(table: Sequence[Standing], as_it_is: Candidate) -> Standing | None:
    """The best one; the config as it is, unless another one is better by more than chance. None if none is any good."""
    if not table or not table[0].per_second:
        return None
    first = next((each for each in table if each.candidate == as_it_is), None)
    if first is not None and table[0].per_second <= BY_CHANCE * first.per_second:
        return first
    return table[0]
