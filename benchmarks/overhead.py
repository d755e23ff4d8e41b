"""What the graph itself costs: requests through all hops with next to no work in them.

    python -m benchmarks.overhead [--seconds 8] [--rounds 3]

Compares Aperture on its dummy engine, with the production profile and with Serve's plain defaults, with the same graph
written as in Serve's documentation. Aperture decodes a 1-pixel GIF; the other makes its array out of nothing.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
from collections.abc import Mapping
from typing import Any

import ray
import yaml

from benchmarks.load import Outcome, closed_loop
from benchmarks.service import ROOT, Service, running
from scripts.ray_env import production_profile

CALLERS = (1, 8, 32)
WARM_UP_S = 3.0
# The body has the size of a photograph; decoders stop reading at the GIF's trailer.
BODY_BYTES = 130_000
GIF = bytes.fromhex("47494638376101000100800000ffffffffffff2c00000000010001000002024401003b")
SECONDS, ROUNDS = 8.0, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="medians are over this many")
    args = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for round_number in range(args.rounds):
        for name, (config, environment, path) in VARIANTS.items():
            print(f"round {round_number + 1} of {args.rounds}: {name}", flush=True)
            rows[name].append(measure(config, environment, path, args.seconds))
    medians = {
        name: {key: statistics.median(row[key] for row in found) for key in found[0]} for name, found in rows.items()
    }
    print_table(medians)
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "ray": ray.__version__}
    print(
        json.dumps(
            {"benchmark": "overhead", "rounds": args.rounds, "seconds": args.seconds, **machine, "medians": medians}
        )
    )


def measure(config: dict[str, Any], environment: Mapping[str, str], path: str, seconds: float) -> dict[str, float]:
    with running(config, environment, path if path == "/" else "/v2/health/ready") as service:
        load(service, path, 8, WARM_UP_S)
        row: dict[str, float] = {}
        for callers in CALLERS:
            before_s = service.cpu_s()
            outcome = load(service, path, callers, seconds)
            cpu_ms = (service.cpu_s() - before_s) * 1000 / len(outcome.latencies_s)
            row[f"cpu_ms_c{callers}"] = cpu_ms
            row[f"per_second_c{callers}"] = outcome.per_second
            row[f"p50_ms_c{callers}"] = outcome.percentile_ms(50)
            row[f"p99_ms_c{callers}"] = outcome.percentile_ms(99)
            row[f"failed_c{callers}"] = outcome.failed
        return row


def load(service: Service, path: str, callers: int, seconds: float) -> Outcome:
    return asyncio.run(closed_loop(f"{service.url}{path}", [GIF.ljust(BODY_BYTES, b"\0")], callers, seconds))


def print_table(medians: dict[str, dict[str, float]]) -> None:
    print(f"\n{'':34}" + "".join(f"{f'c={callers}':>30}" for callers in CALLERS))
    print(f"{'':34}" + f"{'CPU-ms':>9}{'req/s':>8}{'p50':>7}{'p99':>6}" * len(CALLERS))
    for name, row in medians.items():
        cells = "".join(
            f"{row[f'cpu_ms_c{c}']:9.1f}{row[f'per_second_c{c}']:8.0f}{row[f'p50_ms_c{c}']:7.1f}{row[f'p99_ms_c{c}']:6.0f}"
            for c in CALLERS
        )
        print(f"{name:34}{cells}")
    print()


def aperture_config() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "configs/local.yaml").read_text())
    application = config["applications"][0]
    application["args"]["models"] = [{"name": "dummy", "engine": "dummy"}]
    application["deployments"][-1]["name"] = "dummy"
    del application["deployments"][-1]["user_config"]
    return config


def docs_style_config() -> dict[str, Any]:
    application = {"name": "docs", "route_prefix": "/", "import_path": "benchmarks.docs_style:build", "args": {}}
    return {"http_options": {"host": "127.0.0.1", "port": 8000}, "applications": [application]}


VARIANTS: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "Aperture, configs/ray.env": (aperture_config(), production_profile(on_one_machine=True), "/predict"),
    "Aperture, Serve's plain defaults": (aperture_config(), {}, "/predict"),
    "as in Serve's documentation": (docs_style_config(), {}, "/"),
}


if __name__ == "__main__":
    main()
