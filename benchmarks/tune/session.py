"""One tuning from the engines to the file: what is known already is not measured again, and whatever ends it, the best
so far is kept."""

import hashlib
import json
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from tqdm import tqdm

from benchmarks.report import versions
from benchmarks.subjects import CACHE
from benchmarks.tune import engines as alone
from benchmarks.tune import finals
from benchmarks.tune.candidate import Candidate, Config, Subject, applied, as_measured, edits
from benchmarks.tune.engines import Engines
from benchmarks.tune.rates import Found, find_rate
from benchmarks.tune.reasons import TELLING
from benchmarks.tune.served import NotServed, Place, Served
from benchmarks.tune.space import CPU_BATCH_SIZES, GPU_BATCH_SIZES, Space, space
from benchmarks.tune.study import Tried, add, best, open_study, propose, search, tried
from deployments.engines.hardware import describe_hardware
from deployments.engines.registry import Device

# Of the time, kept for the finals.
FINALS_SHARE = 0.4
# Their open loops are so many times as long, and fewer, since they begin at a rate that was good.
FINALS_TIMES, FINALS_PROBES = 3, 4
# The engine alone was measured for a moment: a limit that is below what was served by less may be chance.
LIMIT_MARGIN = 1.2
# A queue that grows because five of 100 requests are too many makes them wait a goal longer after so many of them.
GOALS_A_PROBE = 20
# Loops of 4 s let the bundled model pass for 105 requests a second, which in loops of 12 s had 58 (docs/lab-notes.md).
LEAST_PROBE_S, MOST_PROBE_S = 8.0, 20.0


@dataclass(frozen=True)
class Wish:
    """What was asked for. `seconds`: of each open loop."""

    subject: Subject
    pictures: Sequence[bytes]
    goal_ms: float
    seconds: float
    device: Device
    cores: int
    gpus: int
    trials: int
    minutes: float
    rounds: int
    seed: int
    engines: Sequence[str] | None = None
    precisions: Sequence[str] | None = None

    @property
    def name(self) -> str:
        """The same for the same config, goal, pictures, machine and libraries: what was measured then still holds."""
        libraries = {name: version for name, version in versions().items() if name in TELLING}
        pictures = hashlib.sha256(b"".join(hashlib.sha256(each).digest() for each in self.pictures)).hexdigest()
        content = [
            *(self.subject.config, self.subject.model, self.goal_ms, self.seconds, pictures, self.cores, self.gpus),
            *(describe_hardware(self.device), libraries, self.engines, self.precisions),
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass
class Result:
    """`as_it_is`: the config's own candidate, with the engine that it came to."""

    study: optuna.Study
    as_it_is: Candidate
    engines: Engines = field(default_factory=lambda: Engines([], {}))
    left_out: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def tried(self) -> list[Tried]:
        return tried(self.study)

    @property
    def standings(self) -> list[finals.Standing]:
        return finals.standings(self.study, self.tried)

    @property
    def chosen(self) -> finals.Standing | None:
        return finals.chosen(self.standings, self.as_it_is)


def probe_seconds(goal_ms: float) -> float:
    """Of an open loop that is to tell a rate a little too high from one that is not."""
    return min(max(LEAST_PROBE_S, GOALS_A_PROBE * goal_ms / 1000), MOST_PROBE_S)


def run(wish: Wish, folder: Path, *, fresh: bool = False) -> Result:
    """`folder`: for the config and the log of the service. Ctrl-C and SIGTERM end it early, with what it has so far."""
    journal = CACHE / "tune" / f"{wish.subject.model}-{wish.name}.jsonl"
    if fresh:
        journal.unlink(missing_ok=True)
    study = open_study(wish.name, wish.seed, journal)
    result = Result(study, wish.subject.as_it_is)
    until_s = time.monotonic() + 60 * wish.minutes
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        _engines(wish, result)
        with Place(folder, wish.subject.model, wish.pictures, wish.goal_ms) as place:
            _Tuning(wish, result, place, until_s).run()
    except KeyboardInterrupt:
        result.interrupted = True
    return result


def _interrupt(number: int, _: object) -> None:
    """Once: what was started is being stopped then."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _engines(wish: Wish, result: Result) -> None:
    study = result.study
    if "engines" not in study.user_attrs:
        choices = alone.installed(wish.subject, wish.device, wish.engines, wish.precisions)
        with tqdm(total=len(choices), desc="engines alone", unit="engine") as bar:
            found = alone.measured(
                wish.subject, choices, wish.device, wish.pictures, _batch_sizes(wish), lambda name: bar.update()
            )
        study.set_user_attr("engines", found.record())
    result.engines = Engines.from_record(study.user_attrs["engines"])


def _batch_sizes(wish: Wish) -> list[int]:
    sizes = CPU_BATCH_SIZES if wish.device == "cpu" else GPU_BATCH_SIZES
    return sorted({*sizes, wish.subject.as_it_is.max_batch_size})


@dataclass
class _Tuning:
    wish: Wish
    result: Result
    place: Place
    until_s: float

    def run(self) -> None:
        wish, study = self.wish, self.result.study
        rounds = wish.rounds * (finals.FINALISTS + 1)
        search_until_s = self.until_s - (FINALS_SHARE * 60 * wish.minutes if rounds else 0.0)
        with tqdm(total=wish.trials, initial=len(tried(study)), desc="search", unit="candidate") as bar:
            self._measure_as_it_is(bar)
            candidates = self._space()
            if candidates.choices:
                propose(study, candidates, self._first_guesses(candidates))
                search(
                    study,
                    candidates,
                    self._measure,
                    trials=wish.trials,
                    until_s=search_until_s,
                    told=lambda one: self._tell(bar),
                )
        good = finals.finalists(tried(study), self.result.as_it_is)
        if rounds and best(study) is not None:
            with tqdm(total=wish.rounds * (len(good) + 1), desc="finals", unit="measurement") as bar:
                finals.play(
                    study,
                    good,
                    self.result.as_it_is,
                    self._measure_again,
                    rounds=wish.rounds,
                    until_s=self.until_s,
                    told=lambda: self._tell(bar),
                )

    def _measure_as_it_is(self, bar: Any) -> None:
        """First, since everything else is compared with it, and only once: the finals measure it again."""
        study, result = self.result.study, self.result
        if "runs_on" not in study.user_attrs:
            try:
                served = self._serve(result.as_it_is, self.wish.seconds)
                engine, precision = served.runs_on()
                found = find_rate(served, self.wish.goal_ms)
            except NotServed as err:
                tqdm.write(f"The config as it is does not serve: {err}")
                return
            candidate = replace(result.as_it_is, engine=engine, precision=precision)
            add(study, self._space(candidate), candidate, found)
            study.set_user_attr("runs_on", [engine, precision])
            self._tell(bar)
        engine, precision = study.user_attrs["runs_on"]
        result.as_it_is = replace(result.as_it_is, engine=engine, precision=precision)

    def _space(self, as_it_is: Candidate | None = None) -> Space:
        wish, found = self.wish, self.result.engines
        kept, self.result.left_out = alone.worth_serving(found, wish.goal_ms, wish.cores)
        sizes = alone.batch_sizes_worth_trying(found, kept, _batch_sizes(wish), wish.goal_ms, wish.cores)
        own = (as_it_is or self.result.as_it_is).max_batch_size
        return space(wish.subject, kept, sorted({*sizes, own}), wish.cores, wish.gpus)

    def _first_guesses(self, candidates: Space) -> list[Candidate]:
        """Each engine with a replica to a core, as what is bound by its cores wants, and with all else as it is."""
        now = self.result.as_it_is
        plain = [replace(now, engine=each.engine, precision=each.precision) for each in candidates.choices]
        return [*(replace(each, replicas=self.wish.cores, threads=1) for each in plain), *plain]

    def _serve(self, candidate: Candidate, seconds: float) -> Served:
        wish = self.wish
        config: Config = applied(wish.subject.config, edits(wish.subject, candidate, self.result.as_it_is))
        callers = 2 * candidate.max_batch_size * candidate.replicas
        return self.place.serve(as_measured(wish.subject, config), callers, seconds)

    def _measure(self, candidate: Candidate, to_beat: float) -> Found:
        speed = next(
            each
            for each in self.result.engines.speeds
            if (each.engine, each.precision) == (candidate.engine, candidate.precision)
        )
        limit = float("inf") if self.wish.gpus else self.result.engines.limit(speed, self.wish.cores)
        if LIMIT_MARGIN * limit < to_beat:
            return Found(0.0, limit, [], is_beaten=True)
        return find_rate(self._serve(candidate, self.wish.seconds), self.wish.goal_ms, to_beat=to_beat)

    def _measure_again(self, candidate: Candidate) -> Found:
        """For longer: a short open loop ends before all that a rate a little too high does has come to light."""
        known = next((each.per_second for each in self.result.standings if each.candidate == candidate), 0.0)
        served = self._serve(candidate, FINALS_TIMES * self.wish.seconds)
        return find_rate(served, self.wish.goal_ms, expected=known, most_probes=FINALS_PROBES)

    def _tell(self, bar: Any) -> None:
        leader = best(self.result.study)
        bar.update()
        bar.set_postfix_str("nothing good yet" if leader is None else f"{leader.per_second:.3g}/s {leader.candidate}")
