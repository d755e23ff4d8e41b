"""Which candidates there are: what fits on the cores of the machine, and into what Ray reserves for each replica."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import optuna
from optuna.distributions import BaseDistribution, IntDistribution

from benchmarks.tune.candidate import INGRESS, PREPROCESSOR, Candidate, Subject
from deployments.engines.registry import Choice

Value = TypeVar("Value")
# Asked for the one of several values that a knob is to have.
Pick = Callable[[str, Sequence[Value]], Value]

# One batch of these, at most: more gained nothing on any CPU that was measured (docs/benchmarks.md), and everybody in a
# batch waits for all of it.
CPU_BATCH_SIZES, GPU_BATCH_SIZES = (1, 2, 4, 8, 16), (1, 2, 4, 8, 16, 32, 64, 128)
MAX_CALLS, MAX_IMAGES = (1, 2, 4, 8, 16), (1, 4, 8, 16, 32)
# An Ingress does some hundred images a second on a core (docs/benchmarks.md), so a few do for any one machine.
MAX_INGRESSES = 4
# Of Settings.preprocessor_threads and ModelSettings.threads.
MAX_PREPROCESSOR_THREADS, MAX_THREADS = 64, 256


@dataclass(frozen=True)
class Space:
    """Candidates for a subject on `cores` cores (and `gpus` devices, if it runs on those).

    Replicas times threads of the model are at most `cores`, and so they are of preprocessing; all replicas together
    reserve no more than `cores` of Ray's num_cpus. What the config does not let vary has one value.
    """

    choices: tuple[Choice, ...]
    batch_sizes: tuple[int, ...]
    cores: int
    now: Candidate
    num_cpus: Mapping[str, float]  # of one replica, by the knob that says how many
    fixed: frozenset[str]  # knobs that the config does not let vary
    gpus: int = 0
    # Cores that the other models of the config have reserved.
    taken: float = 0.0

    def walk(self, pick: Pick[Any]) -> Candidate:
        """The candidate that `pick` asks for, one knob after the other. Whoever asks for more replicas than the knobs
        before leave room for gets as many as fit: so each knob has the same values everywhere."""
        choice = pick("engine", self.choices)
        threads = self.now.threads if self.gpus else self._one(pick, "threads", steps(min(self.cores, MAX_THREADS)))
        decoders = self._one(pick, "preprocessor_threads", steps(min(self.cores, MAX_PREPROCESSOR_THREADS)))
        counts: dict[str, int] = {}
        for knob, most in (
            ("replicas", self.gpus or self.cores // threads),
            ("preprocessors", self.cores // decoders),
            ("ingresses", MAX_INGRESSES),
        ):
            counts[knob] = self._count(pick, knob, most, counts)
        return Candidate(
            engine=choice.engine,
            precision=choice.precision,
            max_batch_size=pick("max_batch_size", self.batch_sizes),
            threads=threads,
            preprocessor_threads=decoders,
            max_calls=self._gathering(pick, "max_calls", MAX_CALLS),
            max_images=self._gathering(pick, "max_images", MAX_IMAGES),
            **counts,
        )

    def suggest(self, trial: optuna.Trial) -> Candidate:
        return self.walk(lambda name, values: values[trial.suggest_int(name, 0, len(values) - 1)])

    def parameters(self, candidate: Candidate) -> tuple[dict[str, int], dict[str, BaseDistribution]] | None:
        """What `suggest` would have asked for to get this candidate; None if it is not in the space."""
        found: dict[str, int] = {}
        distributions: dict[str, BaseDistribution] = {}
        wanted = {**candidate.record(), "engine": Choice(candidate.engine, candidate.precision)}  # type: ignore[arg-type]

        def pick(name: str, values: Sequence[Any]) -> Any:
            found[name] = values.index(wanted[name])
            distributions[name] = IntDistribution(0, len(values) - 1)
            return wanted[name]

        try:
            return (found, distributions) if self.walk(pick) == candidate else None
        except ValueError:
            return None

    def _count(self, pick: Pick[Any], knob: str, most: int, before: Mapping[str, int]) -> int:
        """Replicas within `most` and within what the others leave of the reservations; each has at least one."""
        others = {
            name: before.get(name, self.now.record()[name] if name in self.fixed else 1) for name in self.num_cpus
        }
        left = self.cores - self.taken - sum(self.num_cpus[name] * others[name] for name in others if name != knob)
        # Sums of tenths are not exact.
        room = int(left / self.num_cpus[knob] + 1e-9) if self.num_cpus[knob] else most
        asked_for = self._one(pick, knob, steps(self.gpus or self.cores))
        return asked_for if knob in self.fixed else max(1, min(asked_for, most, room))

    def _one(self, pick: Pick[Any], knob: str, values: Sequence[int]) -> int:
        return int(self.now.record()[knob] if knob in self.fixed else pick(knob, values))

    def _gathering(self, pick: Pick[Any], knob: str, values: Sequence[int]) -> int | None:
        now = self.now.record()[knob]
        return None if now is None else self._one(pick, knob, sorted({*values, now}))


def space(subject: Subject, choices: Sequence[Choice], batch_sizes: Sequence[int], cores: int, gpus: int = 0) -> Space:
    """`batch_sizes`: those worth trying; `gpus`: devices, if the model runs on them."""
    names = {"replicas": subject.model, "preprocessors": PREPROCESSOR, "ingresses": INGRESS}
    fixed = {knob for knob, name in names.items() if subject.is_autoscaled(name) or not subject.deployment(name)}
    if any(map(subject.is_autoscaled, names.values())):
        # Together they keep busy what may come (scripts.check_autoscaling).
        fixed |= {"ingresses", "max_calls"}
    others = [model.name for model in subject.settings.models if model.name != subject.model]
    return Space(
        tuple(choices),
        tuple(sorted(batch_sizes)),
        cores,
        subject.as_it_is,
        {knob: subject.num_cpus(name) for knob, name in names.items()},
        frozenset(fixed),
        gpus,
        sum(subject.replicas(name) * subject.num_cpus(name) for name in others),
    )


def steps(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, 24, ... up to `most`, which is the last: each at most half as much again as the one
    before, but for 2."""
    found, power = {1, most}, 2
    while power <= most:
        found |= {each for each in (power, power * 3 // 2) if each <= most}
        power *= 2
    return sorted(found)
