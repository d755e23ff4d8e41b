"""Aperture beside other servers: the same model, engine, decoder and photographs, in one run on one machine.

    python -m benchmarks.compare [--model models/NAME] [--engine openvino] [--precision fp32] [--photos DIR]

Every server gets what is best for it on few cores, as far as its documentation and trying it out say: as many
processes that run the model as there are cores (--workers), one thread each, and Aperture's own engines, which run an
image that is alone in its batch on --lone-threads, by default all cores.

    FastAPI + uvicorn   no batches; one process a core, decoding and inference on a thread beside the event loop
    mosec               as many processes that decode; batches, gathered for at most 1 ms
    LitServe            batches, gathered for at most 5 ms, decoded where they are run; one process for HTTP, fast queue
    Aperture            configs/local.yaml and configs/ray.env, with --replicas and --threads

First all of them must give the same answers to the same photographs. Then each round starts them one after the other,
in rotating order, under 1, 8 and 32 callers in a closed loop, an open loop of --rate requests a second, and one at 60 %
of what the server answered to 32 callers.
"""

import argparse
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from tqdm import tqdm

from benchmarks import arguments, systems
from benchmarks.measure import answer, loads, measure
from benchmarks.report import document, summarize, table
from benchmarks.service import Service

RATE_PER_S = 15.0
# How many photographs are compared, and how far their probabilities may be apart.
COMPARED, TOLERANCE = 5, 1e-3

Answers = Sequence[Sequence[Mapping[str, Any]]]  # by photograph, then by rank: label, index, probability


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.set_defaults(rate=RATE_PER_S, lone_threads=arguments.CORES)
    parser.add_argument(
        "--workers", type=int, default=arguments.CORES, help="of each other server's model (default: one a core)"
    )
    parser.add_argument("--only", nargs="+", default=systems.NAMES, choices=systems.NAMES, help="leave the others out")
    args = parser.parse_args()
    pictures = arguments.pictures(args)
    check_same_answers({name: _answers(name, args, pictures[:COMPARED]) for name in tqdm(args.only, desc="answers")})
    rounds: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in args.only}
    with tqdm(total=args.rounds * len(args.only) * len(loads(args.rate)), desc="compare", unit="load") as bar:
        for number in range(args.rounds):
            for name in rotated(args.only, number):
                bar.set_postfix_str(f"round {number + 1}, {name}")
                with _start(name, args) as service:
                    row = measure(
                        service, pictures, args.seconds, fixed_per_second=args.rate, seed=number, progress=bar.update
                    )
                rounds[name].append(row)
    results = {name: summarize(rows) for name, rows in rounds.items()}
    print(f"\n{table(results)}\n")
    print(document("compare", args.rounds, arguments.settings(args), results))


def check_same_answers(answers: Mapping[str, Answers]) -> None:
    """Raises RuntimeError unless all agree on the first class and, within TOLERANCE, on the five probabilities."""
    (reference_name, reference), *others = answers.items()
    for name, candidate in others:
        for number, (expected, found) in enumerate(zip(reference, candidate, strict=True)):
            apart = max(
                abs(one["probability"] - other["probability"]) for one, other in zip(expected, found, strict=True)
            )
            if expected[0]["index"] != found[0]["index"] or apart > TOLERANCE:
                raise RuntimeError(
                    f"{name} and {reference_name} answer differently to photograph {number} ({found[0]} and "
                    f"{expected[0]}; {apart:.2g} apart), so their speeds cannot be compared."
                )


def rotated(names: Sequence[str], by: int) -> list[str]:
    """So that nobody always comes first, or always after the same neighbour's heat."""
    start = by % len(names)
    return [*names[start:], *names[:start]]


def _answers(name: str, args: argparse.Namespace, pictures: Sequence[bytes]) -> Answers:
    with _start(name, args) as service:
        return [answer(service, picture) for picture in pictures]


def _start(name: str, args: argparse.Namespace) -> AbstractContextManager[Service]:
    if name == systems.APERTURE:
        return systems.start(name, arguments.model(args, args.threads), args.replicas)
    return systems.start(name, arguments.model(args, threads=1), args.workers)


if __name__ == "__main__":
    main()
