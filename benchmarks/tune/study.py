"""The search for the best candidate: optuna's tree-structured Parzen estimator proposes, and a service is measured.

What has been measured is in a journal, so that a search that was interrupted goes on where it ended.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from benchmarks.tune.candidate import Candidate
from benchmarks.tune.rates import Found
from benchmarks.tune.space import Space

# Candidates by chance before the estimator has enough to go by; those that it is given count.
STARTUP_TRIALS = 6
# Proposals in a row that have been measured before: there is little else that it would try.
MOST_REPEATS = 20
# Failures in a row after which it is not the candidates that are at fault.
MOST_FAILURES = 4
CANDIDATE, FOUND, PROBLEM = "candidate", "found", "problem"

# The rate of a candidate, given the rate that it has to beat. Raises whatever went wrong.
Measure = Callable[[Candidate, float], Found]


@dataclass(frozen=True)
class Tried:
    """One candidate; `problem` says why it was not measured."""

    candidate: Candidate
    found: Found | None
    problem: str = ""

    @property
    def per_second(self) -> float:
        """0 if no rate was good, or it was left early."""
        return self.found.per_second if self.found is not None else 0.0


def open_study(name: str, seed: int, journal: Path | None = None) -> optuna.Study:
    """The study of that name, with what the journal has of it; without a journal, in memory."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=_storage(journal), study_name=name, load_if_exists=True, direction="maximize")
    # What was being measured when a run was interrupted.
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    # With the same seed again, a search that goes on would propose what it has measured.
    study.sampler = sampler(seed + len(study.trials))
    return study


def sampler(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS, multivariate=True)


def tried(study: optuna.Study) -> list[Tried]:
    """What has been measured, or could not be, in that order; each candidate once."""
    found: dict[Candidate, Tried] = {}
    for trial in study.get_trials(deepcopy=False):
        if CANDIDATE in trial.user_attrs and trial.state != TrialState.FAIL:
            one = _tried(trial)
            found.setdefault(one.candidate, one)
    return list(found.values())


def best(study: optuna.Study) -> Tried | None:
    """None if no rate of any candidate was good."""
    good = [each for each in tried(study) if each.per_second]
    return max(good, key=lambda each: each.per_second, default=None)


def add(study: optuna.Study, space: Space, candidate: Candidate, found: Found) -> None:
    """A candidate that was measured without being proposed."""
    parameters, distributions = space.parameters(candidate) or ({}, {})
    study.add_trial(
        create_trial(
            params=parameters,
            distributions=distributions,
            value=found.per_second,
            user_attrs={CANDIDATE: candidate.record(), FOUND: found.record()},
        )
    )


def propose(study: optuna.Study, space: Space, candidates: Sequence[Candidate]) -> None:
    """Has these measured first, as far as they are in the space."""
    for candidate in candidates:
        if (parameters := space.parameters(candidate)) is not None:
            study.enqueue_trial(parameters[0], skip_if_exists=True)


def search(
    study: optuna.Study,
    space: Space,
    measure: Measure,
    *,
    trials: int,
    until_s: float = float("inf"),
    told: Callable[[Tried], object] = lambda one: None,
) -> None:
    """Measures candidates until `trials` have been in this study, and begins with none that would not be done at
    `until_s` (time.monotonic()) if it took as long as the longest so far."""
    repeats = failures = 0
    longest_s = 0.0
    while len(tried(study)) < trials and repeats < MOST_REPEATS and failures < MOST_FAILURES:
        if time.monotonic() + longest_s > until_s:
            return
        began_s = time.monotonic()
        one, is_new = _next(study, space, measure)
        if is_new:
            longest_s = max(longest_s, time.monotonic() - began_s)
            told(one)
        repeats = 0 if is_new else repeats + 1
        failures = failures + 1 if one.problem else 0


def _next(study: optuna.Study, space: Space, measure: Measure) -> tuple[Tried, bool]:
    """What came of the next proposal, and whether it was measured for that."""
    leader, known = best(study), {each.candidate: each for each in tried(study)}
    trial = study.ask()
    try:
        candidate = space.suggest(trial)
        one = known.get(candidate) or _measured(candidate, measure, leader.per_second if leader else 0.0)
    except BaseException:
        study.tell(trial, state=TrialState.FAIL)
        raise
    trial.set_user_attr(CANDIDATE, candidate.record())
    trial.set_user_attr(FOUND, None if one.found is None else one.found.record())
    trial.set_user_attr(PROBLEM, one.problem)
    _tell(study, trial, one)
    return one, candidate not in known


def _measured(candidate: Candidate, measure: Measure, to_beat: float) -> Tried:
    try:
        return Tried(candidate, measure(candidate, to_beat))
    except Exception as err:  # One candidate that crashes is no reason to lose the others.
        return Tried(candidate, None, f"{type(err).__name__}: {err}")


def _tell(study: optuna.Study, trial: optuna.Trial, one: Tried) -> None:
    """What was left early is worse than all that was measured to the end, and the more so the less its capacity. What
    failed is the worst."""
    if one.found is None:
        study.tell(trial, state=TrialState.PRUNED)
    elif one.found.is_beaten:
        trial.report(one.found.capacity, step=len(one.found.probes))
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, one.found.per_second)


def _tried(trial: FrozenTrial) -> Tried:
    found = trial.user_attrs.get(FOUND)
    return Tried(
        Candidate.from_record(trial.user_attrs[CANDIDATE]),
        None if found is None else Found.from_record(found),
        trial.user_attrs.get(PROBLEM, ""),
    )


def _storage(journal: Path | None) -> BaseStorage:
    if journal is None:
        return InMemoryStorage()
    journal.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(journal)))
