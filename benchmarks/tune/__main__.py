"""Finds the settings of a config with which the most images a second are answered within a latency, on this machine.

    python -m benchmarks.tune --config configs/local.yaml --p99-ms 100 [--minutes 20] [--trials 40] [--photos DIR]

Measures the engines alone, those that pass the numeric guard; then serves one candidate after the other, the config as
it is first, and looks for the highest rate of requests at random moments of which 99 of 100 are answered in time; and
at last the best ones again, in turns with the config as it is. docs/tuning.md says how to read what comes out.

Writes configs/NAME.tuned.yaml with the reasons as comments, draws the frontier, prints a table and, as its last line,
the JSON document of benchmarks.report. What has been measured is in .cache/benchmarks/tune, so that the same command
goes on where it ended; Ctrl-C writes the best so far. Ends with status 1, and no file, if nothing meets the goal.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.ray_env import production_profile

if TYPE_CHECKING:
    from benchmarks.tune.session import Wish

TRIALS, MINUTES, ROUNDS = 40, 20.0, 3
INTO = Path(__file__).resolve().parents[2] / "docs/benchmarks"


def main() -> int:
    parser = _parser()
    args = parser.parse_args()
    output = args.output or args.config.with_suffix(".tuned.yaml")
    # Ray reads its environment when it is imported, here as in the processes of the service.
    os.environ.update(
        {**production_profile(on_one_machine=True), "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}
    )
    from benchmarks.tune.session import run
    from benchmarks.tune.told import tell
    from benchmarks.tune.yaml_edits import MARK
    from deployments.errors import ConfigError

    if output.exists() and not args.force and MARK not in output.read_text(encoding="utf-8"):
        parser.exit(1, f"{output} is there already, and not the tuner's; --force writes over it all the same.\n")
    try:
        wish = _wish(args)
        with tempfile.TemporaryDirectory(prefix="aperture-tune-") as folder:
            result = run(wish, Path(folder), fresh=args.fresh)
        return tell(wish, result, config=args.config, output=output, into=args.into)
    except (ConfigError, ValueError) as err:
        parser.exit(1, f"{args.config}: {err}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--p99-ms", type=_positive, required=True, help="within which 99 of 100 are to be answered")
    parser.add_argument("--model", help="of a config with several; default: the first")
    parser.add_argument("--trials", type=int, default=TRIALS, help="candidates at most, earlier runs included")
    parser.add_argument("--minutes", type=_positive, default=MINUTES, help="at most, of this run")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of the finals; 0: none")
    parser.add_argument("--engines", nargs="+", help="these, in place of what engine: auto would consider")
    parser.add_argument("--precisions", nargs="+", help="leave the others out")
    parser.add_argument("--photos", help="a folder of pictures to send; default: made-up ones of 500 x 375")
    parser.add_argument("--seconds", type=_positive, help="of each open loop; default: 20 goals, 8 to 20 s")
    parser.add_argument("--output", type=Path, help="default: NAME.tuned.yaml beside the config")
    parser.add_argument("--force", action="store_true", help="write over it")
    parser.add_argument("--into", type=Path, default=INTO, help="where the picture goes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs have measured")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _wish(args: argparse.Namespace) -> "Wish":
    """Raises ConfigError or ValueError if the config or what is asked of it is wrong."""
    import yaml

    from benchmarks.arguments import CORES
    from benchmarks.pictures import photographs
    from benchmarks.tune.candidate import Subject
    from benchmarks.tune.session import Wish, probe_seconds
    from deployments.engines.hardware import choose_device
    from scripts.check_config import check_config

    check_config(args.config)
    config = yaml.safe_load(args.config.read_text())
    names = [model["name"] for model in config["applications"][0]["args"]["models"]]
    if args.model is not None and args.model not in names:
        raise ValueError(f"the config has no model {args.model!r}, only {', '.join(names)}")
    subject = Subject(config, args.model or names[0])
    device = choose_device(subject.model_settings)
    return Wish(
        subject=subject,
        pictures=photographs(args.photos),
        goal_ms=args.p99_ms,
        seconds=args.seconds or probe_seconds(args.p99_ms),
        device=device,
        cores=CORES,
        gpus=_gpus() if device == "cuda" else 0,
        trials=args.trials,
        minutes=args.minutes,
        rounds=args.rounds,
        seed=args.seed,
        engines=args.engines,
        precisions=args.precisions,
    )


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


if __name__ == "__main__":
    sys.exit(main())
