"""What must hold at the end of a soak, each as one line that holds or does not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.soak.census import SPARE, Holding, Identity, Sample, by_role
from benchmarks.soak.ledger import BAD, HASTY, Ledger

# Over the second half of a process's life under load, along the line through the middle of its memory (Theil-Sen: the
# median of the slopes between all pairs of samples, which a third of outliers does not move). Allocators round by
# megabytes, and caches fill: a leak of a kilobyte a request comes to more than this in a quarter of an hour.
MOST_GROWTH_BYTES, MOST_GROWTH_SHARE = 32 * 2**20, 0.1
# Fewer samples say nothing.
LEAST_SAMPLES = 20
# Of descriptors and threads since the end of the warm-up, in the process of a role that has most of them.
MORE, MORE_SHARE = 16, 0.1
# By role: descriptors beside those after the warm-up that are no leak. Ray's log monitor keeps the logs of processes
# that have ended open until there are 200 (RAY_LOG_MONITOR_MAX_OPEN_FILES).
KEPT_DESCRIPTORS = {"python3 log_monitor.py": 200}
# Of what was asked without haste: a service that refuses everything loses nothing either.
LEAST_ANSWERED = 0.5
# For the slopes of all pairs.
MAX_SAMPLES = 400


@dataclass(frozen=True)
class Check:
    what: str
    holds: bool
    found: str


@dataclass(frozen=True)
class Grown:
    """One process over the second half of its life."""

    role: str
    process_id: int
    lived_s: float
    resident_bytes: float
    growth_bytes: float

    @property
    def is_flat(self) -> bool:
        return self.growth_bytes <= max(MOST_GROWTH_BYTES, MOST_GROWTH_SHARE * self.resident_bytes)


def requests_checks(ledger: Ledger) -> list[Check]:
    checks = [Check(f"no request is {fate}", ledger.count(fate) == 0, str(ledger.count(fate))) for fate in BAD]
    patient = {kind: fates for kind, fates in ledger.fates.items() if kind not in HASTY}
    asked = sum(fates.total() - fates["left"] for fates in patient.values())
    answered = sum(fates["answered"] for fates in patient.values())
    share = answered / max(1, asked)
    found = f"{share:.1%} of {asked} that have time"
    checks.append(Check(f"at least {LEAST_ANSWERED:.0%} are answered", share >= LEAST_ANSWERED, found))
    silent = [kind for kind, fates in patient.items() if not fates["answered"] and not fates["left"]]
    checks.append(Check("every kind of request was answered", not silent, ", ".join(silent) or "yes"))
    return checks


def grown(series: Mapping[Identity, Sequence[Sample]]) -> list[Grown]:
    """Of each process with samples enough; who is killed has a successor that begins anew."""
    found = []
    for identity, samples in series.items():
        half = [each for each in samples[len(samples) // 2 :] if each.holding.role == samples[-1].holding.role]
        if len(half) < LEAST_SAMPLES or half[-1].holding.role in ("defunct", SPARE):
            continue
        times, values = [each.at_s for each in half], [float(each.holding.resident_bytes) for each in half]
        growth_bytes = slope(times, values) * (times[-1] - times[0])
        lived_s = samples[-1].at_s - samples[0].at_s
        found.append(Grown(half[-1].holding.role, identity.process_id, lived_s, float(np.median(values)), growth_bytes))
    return found


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Theil-Sen: the median over all pairs of samples, of at most MAX_SAMPLES that are evenly chosen."""
    chosen = np.unique(np.linspace(0, len(times) - 1, min(len(times), MAX_SAMPLES)).round().astype(int))
    xs, ys = np.asarray(times, float)[chosen], np.asarray(values, float)[chosen]
    first, second = np.triu_indices(len(xs), 1)
    return float(np.median((ys[second] - ys[first]) / (xs[second] - xs[first])))


def memory_checks(processes: Sequence[Grown]) -> list[Check]:
    steep = [
        f"{each.role} ({each.process_id}): {each.growth_bytes / 1e6:+.0f} MB" for each in processes if not each.is_flat
    ]
    worst = max((each.growth_bytes for each in processes), default=0.0)
    found = "; ".join(steep) or f"of {len(processes)} processes at most {worst / 1e6:+.0f} MB"
    return [Check("memory of each process is flat", bool(processes) and not steep, found)]


def leaks(warm: Mapping[Identity, Holding], end: Mapping[Identity, Holding]) -> list[Check]:
    """What is held when nobody asks any more, beside what was held when nobody asked after the warm-up."""
    before, after = by_role(warm), by_role(end)
    checks = []
    for what in ("descriptors", "threads"):
        more = [
            f"{role}: {_most(before[role], what)} to {_most(holdings, what)}"
            for role, holdings in after.items()
            if role in before and _most(holdings, what) > _allowed(role, what, _most(before[role], what))
        ]
        checks.append(Check(f"no process keeps {what}", not more, "; ".join(more) or "as after the warm-up"))
    # Ray keeps as many spare workers as it likes.
    roles = {*before, *after} - {SPARE}
    changed = [
        f"{role}: {len(before.get(role, ()))} to {len(after.get(role, ()))}"
        for role in sorted(roles)
        if len(before.get(role, ())) != len(after.get(role, ()))
    ]
    checks.append(Check("the same processes run", not changed, "; ".join(changed) or f"{len(end)} processes"))
    return checks


def _allowed(role: str, what: str, warm: int) -> float:
    kept = KEPT_DESCRIPTORS.get(role, 0) if what == "descriptors" else 0
    return max(warm + kept, MORE + (1 + MORE_SHARE) * warm)


def _most(holdings: Sequence[Holding], what: str) -> int:
    return max(holding.descriptors if what == "descriptors" else holding.threads for holding in holdings)
