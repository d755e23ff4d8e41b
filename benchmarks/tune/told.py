"""What a tuning came to: the file, the picture, the table and the JSON document."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import document, summarize
from benchmarks.tune import frontier
from benchmarks.tune.candidate import Candidate, edits
from benchmarks.tune.finals import Standing
from benchmarks.tune.rates import Found
from benchmarks.tune.reasons import head, nearest, others_cores, reasons, table
from benchmarks.tune.session import Result, Wish
from benchmarks.tune.study import Tried
from benchmarks.tune.yaml_edits import edited
from deployments.engines.hardware import describe_hardware
from scripts.check_config import check_config


def tell(wish: Wish, result: Result, *, config: Path, output: Path, into: Path) -> int:
    """The exit status: 1 if nothing meets the goal, and then no file is written."""
    chosen = result.chosen
    print(f"\n{table(result.standings, result.as_it_is, chosen.candidate if chosen else None)}\n")
    for name, why in {**result.engines.refused, **result.left_out}.items():
        print(f"{name} was not served: {why}")
    for each in result.tried:
        if each.problem:
            print(f"Failed: {each.candidate}: {each.problem}")
    if chosen is None:
        print(f"Nothing answers 99 of 100 within {wish.goal_ms:g} ms. {nearest(result.tried)}")
    else:
        text = written(wish, result, chosen, config.read_text(encoding="utf-8"))
        output.write_text(text, encoding="utf-8")
        print(f"{'Interrupted; the best so far is in' if result.interrupted else 'Written to'} {output}")
    line, content = _document(wish, result, chosen, config, output)
    into.mkdir(parents=True, exist_ok=True)
    print(f"{frontier.draw(content, into)}\n\n{line}")
    return 0 if chosen is not None else 1


def written(wish: Wish, result: Result, chosen: Standing, text: str) -> str:
    """The config's text with what was chosen. Raises ConfigError if that is not a config that can be served."""
    as_it_is = next((each for each in result.standings if each.candidate == result.as_it_is), None)
    changes = edits(wish.subject, chosen.candidate, result.as_it_is)
    pictures = f"{len(wish.pictures)} pictures of {sum(map(len, wish.pictures)) / len(wish.pictures) / 1000:.0f} KB"
    made = edited(
        text,
        changes,
        reasons(chosen.candidate, result.tried, result.engines, result.left_out, wish.goal_ms),
        head(chosen, as_it_is, wish.goal_ms, describe_hardware(wish.device), pictures, result.tried),
    )
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(made)
        file.flush()
        check_config(Path(file.name))
    return made


def _document(
    wish: Wish, result: Result, chosen: Standing | None, config: Path, output: Path
) -> tuple[str, Mapping[str, Any]]:
    """As one line, and as it is read from there."""
    best = None if chosen is None else chosen.candidate
    settings = {
        "config": config.stem,
        **{"model": wish.subject.model, "p99_ms": wish.goal_ms, "seconds": wish.seconds, "trials": wish.trials},
        **{"minutes": wish.minutes, "seed": wish.seed, "pictures": len(wish.pictures)},
    }
    load = f"p99 <= {wish.goal_ms:g} ms"
    finals = {str(each.candidate): each.rounds for each in result.standings if each.rounds}
    line = document(
        "tune",
        max(map(len, finals.values()), default=0),
        settings,
        {name: summarize([{load: _figures(found)} for found in rounds]) for name, rounds in finals.items()},
        chosen=None if best is None else best.record(),
        as_it_is=result.as_it_is.record(),
        output=None if best is None else output.name,
        interrupted=result.interrupted,
        others_cores=others_cores(result.tried),
        engines=result.engines.record(),
        left_out=result.left_out,
        trials=_trials(result, best),
    )
    return line, json.loads(line)


def _figures(found: Found) -> dict[str, float]:
    """By report.METRICS; without latencies where no rate was good."""
    probe = found.at_the_rate
    latencies = {} if probe is None else {"p50_ms": probe.p50_ms, "p99_ms": probe.p99_ms, "failed": probe.failed}
    return {"per_second": found.per_second, **latencies}


def _trials(result: Result, best: Candidate | None) -> list[dict[str, Any]]:
    """Every candidate with all that was measured of it, finals included."""
    rounds = {each.candidate: each.rounds for each in result.standings}
    roles = {result.as_it_is: ["as it is"]}
    if best is not None:
        roles[best] = [*roles.get(best, []), "chosen"]
    return [
        {
            "candidate": each.candidate.record(),
            "roles": roles.get(each.candidate, []),
            "per_second": each.per_second,
            "is_beaten": each.found is not None and each.found.is_beaten,
            "problem": each.problem,
            "probes": [probe.record() for found in _all(each, rounds) for probe in found.probes],
        }
        for each in result.tried
    ]


def _all(one: Tried, rounds: Mapping[Candidate, Sequence[Found]]) -> list[Found]:
    return [*([] if one.found is None else [one.found]), *rounds.get(one.candidate, [])]
