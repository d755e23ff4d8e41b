"""What was measured, in words: the comments of the file that is written, and the table."""

import datetime
from collections.abc import Mapping, Sequence

from benchmarks.report import versions
from benchmarks.tune.candidate import Candidate
from benchmarks.tune.engines import Engines
from benchmarks.tune.finals import Standing
from benchmarks.tune.study import Tried
from deployments.engines.registry import Choice

# Libraries whose version a figure depends on.
TELLING = ("ray", "openvino", "onnxruntime", "torch", "tensorrt")
# Above so much of the machine, figures of other days or of an idle machine will differ.
SHARED_CORES = 0.1


def head(
    best: Standing, as_it_is: Standing | None, goal_ms: float, hardware: str, pictures: str, tried: Sequence[Tried]
) -> list[str]:
    """For the top of the file."""
    found = versions()
    libraries = ", ".join(f"{name} {found[name]}" for name in TELLING if name in found)
    before = "" if as_it_is is None else f" The file as it was: {_rates(as_it_is)}."
    lines = [
        f"python -m benchmarks.tune --p99-ms {goal_ms:g}, {datetime.date.today()}, {hardware}; {libraries}.",
        f"{_rates(best)} images/s with 99 of 100 answers within {goal_ms:g} ms, {pictures}, the best of "
        f"{len(tried)} candidates.{before}",
    ]
    others = others_cores(tried)
    if others >= SHARED_CORES:
        lines.append(
            f"Other programs took {others:.1f} cores meanwhile, in the median: an idle machine has other figures."
        )
    return lines


def reasons(
    best: Candidate, tried: Sequence[Tried], engines: Engines, left_out: Mapping[str, str], goal_ms: float
) -> dict[str, str]:
    """For each knob what speaks for its value: the best rate that was found with each of its values."""
    found = {knob: _by_value(knob, best, tried, goal_ms) for knob in best.record()}
    choice = f"{best.engine} {best.precision}"
    alone = {str(speed.choice): f"{speed.best:.3g}" for speed in engines.speeds}
    others = ", ".join(f"{name} {rate}" for name, rate in alone.items() if name != choice)
    verdict = next((speed.verdict for speed in engines.speeds if str(speed.choice) == choice), "")
    if choice in alone:
        found["engine"] += f" Alone, on one thread or device, {choice} does {alone[choice]} img/s at best"
        found["engine"] += f"; {others}." if others else "."
        found["precision"] = f"Beside eager float32: {verdict}."
    refused = [f"{name}: {why}" for name, why in {**engines.refused, **left_out}.items()]
    if refused:
        found["engine"] += f" Not served: {'; '.join(each.rstrip('.') for each in refused)}."
    return found


def others_cores(tried: Sequence[Tried]) -> float:
    """That other programs took, in the median over all measurements."""
    shares = sorted(probe.others_cores for each in tried if each.found for probe in each.found.probes)
    return shares[len(shares) // 2] if shares else 0.0


def table(standings: Sequence[Standing], as_it_is: Candidate, chosen: Candidate | None) -> str:
    """The candidates with a good rate, best first."""
    lines = [f"{'images/s':>10}  {'rounds':22}{'p99 ms':>8}  candidate"]
    for each in standings:
        if not each.per_second:
            continue
        mark = " <- as it is" if each.candidate == as_it_is else ""
        mark += " <- chosen" if each.candidate == chosen else ""
        rounds = ", ".join(f"{found.per_second:.3g}" for found in each.rounds) or "-"
        last = next((found.at_the_rate for found in each.rounds if found.at_the_rate), None)
        p99 = f"{last.p99_ms:.0f}" if last else "-"
        lines.append(f"{each.per_second:>10.3g}  {rounds:22}{p99:>8}  {each.candidate}{mark}")
    return "\n".join(lines)


def nearest(tried: Sequence[Tried]) -> str:
    """What came closest where no rate was good."""
    probes = [(probe, each.candidate) for each in tried if each.found for probe in each.found.probes]
    if not probes:
        problems = [each.problem for each in tried if each.problem]
        return f"Nothing could be measured: {problems[-1]}" if problems else "Nothing was measured."
    probe, candidate = min(probes, key=lambda each: each[0].p99_ms)
    return (
        f"The nearest was a p99 of {probe.p99_ms:.0f} ms at {probe.per_second:.3g} images/s, {probe.failed} of "
        f"{probe.requests} failed: {candidate}."
    )


def _by_value(knob: str, best: Candidate, tried: Sequence[Tried], goal_ms: float) -> str:
    own, rates = best.record()[knob], dict[str, list[float]]()
    for each in tried:
        if each.per_second:
            value = each.candidate.record()[knob]
            label = str(Choice(each.candidate.engine, each.candidate.precision)) if knob == "engine" else str(value)  # type: ignore[arg-type]
            rates.setdefault(label, []).append(each.per_second)
    if len(rates) < 2:
        return f"no other value was good beside {own}."
    told = ", ".join(f"{label}: {max(found):.3g} of {len(found)}" for label, found in sorted(rates.items(), key=_order))
    return f"best images/s within {goal_ms:g} ms by value, and of how many candidates: {told}."


def _order(item: tuple[str, list[float]]) -> tuple[bool, int, str]:
    label = item[0]
    return (not label.isdecimal(), int(label) if label.isdecimal() else 0, label)


def _rates(standing: Standing) -> str:
    rates = standing.rates
    if len(rates) == 1:
        return f"{rates[0]:.3g} (measured once)"
    return f"{standing.per_second:.3g} ({min(rates):.3g} to {max(rates):.3g} in {len(rates)} rounds)"
