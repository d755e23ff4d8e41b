"""How many replicas, nodes and GPUs a load needs, and what latency to expect: a simulation of the graph.

    python -m benchmarks.capacity --rps 200 --p99-ms 400
    python -m benchmarks.capacity --rps 50000 --p99-ms 150 --gpu-batch-ms 1:A,8:B,32:C --gpu-node 16:1:PRICE
    python -m benchmarks.capacity --validate FILE ...

Service times are those of docs/benchmarks.md, measured on 2 virtual cores of 2021, unless --measured names files in
which benchmarks.engines, preprocess or overhead left their JSON line, taken on your machine. Of GPUs nothing was
measured: state the times of your batches yourself. Prices are yours, too.

--validate takes what benchmarks.serve or compare printed and puts the simulation of that run beside it. Everything is
drawn from --seed: the same arguments give the same answer.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.simulation import arguments, calibration, scenarios, validation
from benchmarks.simulation.fleet import Fleet, fleet
from benchmarks.simulation.plan import Demand, Infeasible, Plan, plan
from benchmarks.simulation.scenarios import Event
from benchmarks.simulation.service_times import MS, ServiceTimes
from benchmarks.simulation.shape import CLASSIFIER, USUAL_GATHERING, Shape


def main() -> None:
    parser = arguments.parser(__doc__)
    args = parser.parse_args()
    try:
        times = _times(args)
        if args.validate:
            _validate(args, times)
        elif args.rps is None or args.p99_ms is None:
            parser.error("--rps and --p99-ms are needed, or --validate")
        else:
            _plan(args, times)
    except (ValueError, Infeasible) as err:
        parser.exit(1, f"{err}\n")


def _validate(args: argparse.Namespace, times: ServiceTimes) -> None:
    documents = {file: _read(file) for file in args.validate}
    results: dict[str, list[dict[str, Any]]] = {}
    for file, document in documents.items():
        comparisons = validation.compare(document, times, args.cores)
        print(f"{file} ({document['benchmark']}, {document['hardware']})\n{validation.table(comparisons)}\n")
        results[file.name] = [asdict(one) | {"off": one.off, "is_within": one.is_within} for one in comparisons]
        if args.plot:
            from benchmarks.simulation.plots import validation_picture

            validation_picture(
                comparisons, f"{document['hardware']}; medians of {document['rounds']} rounds", args.plot
            )
    print(_line("capacity-validation", args, times, results))


def _plan(args: argparse.Namespace, times: ServiceTimes) -> None:
    demand = Demand(args.rps, args.p99_ms * MS, args.images_per_request, args.burst, args.seed)
    found = plan(demand, _shape(args), times)
    nodes = fleet(
        found,
        args.cpu_node,
        args.gpu_node,
        replicas_a_cluster=args.replicas_per_cluster,
        image_kb=args.image_kb,
        pixels_kb=arguments.PIXELS_KB,
    )
    events = [] if args.no_events else _events(found, times, args)
    print("\n".join(_told(found, nodes, events, times)))
    if args.plot:
        from benchmarks.simulation.plots import plan_picture

        plan_picture(found, events, args.plot)
    print(_line("capacity", args, times, _results(found, nodes, events)))


def _events(found: Plan, times: ServiceTimes, args: argparse.Namespace) -> list[Event]:
    per_second = found.demand.images_per_second / found.cells
    settings = {"start_up_s": args.start_up_s, "seed": args.seed}
    return [
        scenarios.surge(found.cell, times, per_second, args.surge, **settings),
        scenarios.loss(found.cell, times, per_second, CLASSIFIER, args.lost, **settings),
    ]


def _told(found: Plan, nodes: Fleet, events: list[Event], times: ServiceTimes) -> list[str]:
    busiest = max(found.found.occupation.items(), key=lambda item: item[1])
    by_run = ", ".join(f"{p99_ms:.0f}" for p99_ms in found.p99_ms_by_run)
    cost = "no prices were given" if nodes.cost_per_million is None else f"{nodes.cost_per_million:.2f}"
    lines = [
        "",
        *(f"{name:28}{count:>10} replicas" for name, count in found.replicas.items()),
        f"{'nodes':28}{nodes.nodes:>10} = {nodes.cpu_nodes} CPU, {nodes.gpu_nodes} GPU, {nodes.clusters} head",
        f"{'gathering.max_calls':28}{found.cell.max_calls:>10}",
        f"{'GPUs':28}{nodes.gpus:>10}",
        f"{'cost of a million images':28}{cost:>10}",
        f"{'p50':28}{found.found.percentile_ms(50):>10.0f} ms",
        f"{'p99':28}{found.found.percentile_ms(99):>10.0f} ms ({by_run} in each run)",
        f"{'images to a batch':28}{found.found.mean_batch:>10.1f}",
        "",
        *(f"{name:28}{share:>10.0%} busy" for name, share in found.found.occupation.items()),
        f"Saturates first: {busiest[0]}, at about {found.demand.images_per_second / busiest[1]:.0f} images a second.",
        "",
        *(_event_told(event, found.demand.p99_s) for event in events),
        *nodes.limits,
        f"Simulated: one of {found.cells} equal cells, {found.cell.counts}.",
        *(f"Source of {part}: {source}" for part, source in times.sources.items()),
        "",
    ]
    return lines


def _event_told(event: Event, p99_s: float) -> str:
    return (
        f"{event.name}: p99 of the worst second {event.worst_p99_ms():.0f} ms, {event.seconds_above(p99_s / MS)} of "
        f"{len(event.p99_ms) - int(event.begins_s)} s above the bar, {event.failed} images failed."
    )


def _results(found: Plan, nodes: Fleet, events: list[Event]) -> dict[str, Any]:
    return {
        "replicas": found.replicas,
        "fleet": asdict(nodes) | {"nodes": nodes.nodes},
        "p50_ms": found.found.percentile_ms(50),
        "p99_ms": found.found.percentile_ms(99),
        "p99_ms_by_run": found.p99_ms_by_run,
        "busy": found.found.occupation,
        "cells": found.cells,
        "cell": found.cell.counts,
        "events": {event.name: {"worst_p99_ms": event.worst_p99_ms(), "failed": event.failed} for event in events},
    }


def _line(benchmark: str, args: argparse.Namespace, times: ServiceTimes, results: object) -> str:
    """One line of JSON; what is infinite, since it never ended, is null."""
    settings = {key: _plain(value) for key, value in vars(args).items()}
    content = {"benchmark": benchmark, "settings": settings, "sources": dict(times.sources), "results": results}
    return json.dumps(_finite(content), allow_nan=False)


def _plain(value: Any) -> Any:
    """As JSON knows it; of files only the name."""
    if isinstance(value, list):
        return [_plain(member) for member in value]
    if isinstance(value, Path):
        return value.name
    return value if isinstance(value, int | float | str | None) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(member) for member in value]
    return None if isinstance(value, float) and value in (float("inf"), float("-inf")) else value


def _times(args: argparse.Namespace) -> ServiceTimes:
    times = calibration.default_times()
    documents = [_read(file) for file in args.measured]
    # The engine's slowdown is found beside the time of decoding, which must be there first.
    for document in sorted(documents, key=lambda one: one["benchmark"] == "engines"):
        times = calibration.with_measured(times, document, args.engine)
    if args.batch_ms or args.gpu_batch_ms:
        batches = args.gpu_batch_ms or args.batch_ms
        sources = {**times.sources, "engine": "--gpu-batch-ms" if args.gpu_batch_ms else "--batch-ms"}
        times = replace(times, batches=batches, batch_p90_ratio=args.batch_p90_ratio or 1.0, sources=sources)
    return replace(times, network_s=args.network_ms * MS)


def _shape(args: argparse.Namespace) -> Shape:
    usual = USUAL_GATHERING
    update = {"max_calls": args.max_calls or usual.max_calls, "max_images": args.max_images}
    return Shape(
        preprocessor_threads=args.preprocessor_threads,
        classifier_threads=args.classifier_threads,
        runners=args.runners,
        max_batch_size=args.max_batch_size,
        gathering=None if args.max_images == 1 else usual.model_copy(update=update),
        calls_a_replica=0 if args.max_calls else arguments.CALLS_A_REPLICA,
        on_gpu=args.gpu_batch_ms is not None,
    )


def _read(file: Path) -> dict[str, Any]:
    """The JSON document in the last line. Raises ValueError if there is none."""
    lines = file.read_text().strip().splitlines()
    try:
        document: dict[str, Any] = json.loads(lines[-1] if lines else "")
    except ValueError:
        raise ValueError(f"The last line of {file} is not the JSON document of a benchmark.") from None
    return document


if __name__ == "__main__":
    main()
