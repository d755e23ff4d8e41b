"""What Aperture serves end to end: photographs in, labels out, under the production profile.

    python -m benchmarks.serve [--model models/NAME] [--engine openvino] [--precision fp32] [--photos DIR]

Starts the service anew in each round, with configs/local.yaml for the model, and puts 1, 8 and 32 callers on it in a
closed loop, then an open loop at 60 % of what it answered to 32.
"""

import argparse

from tqdm import tqdm

from benchmarks import arguments, systems
from benchmarks.measure import loads, measure
from benchmarks.report import document, summarize, table


def main() -> None:
    parser = arguments.parser(__doc__)
    args = parser.parse_args()
    pictures, model = arguments.pictures(args), arguments.model(args, args.threads)
    rounds = []
    with tqdm(total=args.rounds * len(loads(args.rate)), desc="serve", unit="load") as bar:
        for number in range(args.rounds):
            with systems.start(systems.APERTURE, model, args.replicas) as service:
                rounds.append(
                    measure(
                        service, pictures, args.seconds, fixed_per_second=args.rate, seed=number, progress=bar.update
                    )
                )
    results = {label(args): summarize(rounds)}
    print(f"\n{table(results)}\n")
    print(document("serve", args.rounds, arguments.settings(args), results))


def label(args: argparse.Namespace) -> str:
    return f"{systems.APERTURE}, {args.replicas} x {args.threads} threads"


if __name__ == "__main__":
    main()
