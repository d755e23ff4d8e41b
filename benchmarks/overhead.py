"""What the graph itself costs: requests through all hops with next to no work in them.

    python -m benchmarks.overhead [--seconds 8] [--rounds 3]

Compares Aperture on its dummy engine, with the production profile and with Serve's plain defaults, with the same graph
written as in Serve's documentation. Bodies have the size of a photograph and of the model's input: an uncompressed
picture, which Aperture still reads and checks (0.5 ms); the other makes its array out of nothing.
"""

import argparse
import asyncio
import io
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any

import yaml
from PIL import Image

from benchmarks.docs_style import SIDE
from benchmarks.load import Outcome, closed_loop
from benchmarks.measure import figures
from benchmarks.report import document, summarize, table
from benchmarks.service import ROOT, Service, running
from scripts.ray_env import production_profile

CALLERS = (1, 8, 32)
WARM_UP_S = 3.0
SECONDS, ROUNDS = 8.0, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="medians are over this many")
    args = parser.parse_args()
    rows: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in VARIANTS}
    for round_number in range(args.rounds):
        for name, (config, environment, path) in VARIANTS.items():
            print(f"round {round_number + 1} of {args.rounds}: {name}", flush=True)
            rows[name].append(measure(config, environment, path, args.seconds))
    results = {name: summarize(found) for name, found in rows.items()}
    print(f"\n{table(results)}\n")
    print(document("overhead", args.rounds, vars(args), results))


def measure(
    config: dict[str, Any], environment: Mapping[str, str], path: str, seconds: float
) -> dict[str, dict[str, float]]:
    with running(config, environment, path if path == "/" else "/v2/health/ready") as service:
        asyncio.run(load(service, path, 8, WARM_UP_S))
        return {f"c={callers}": figures(service, partial(load, service, path, callers, seconds)) for callers in CALLERS}


def load(service: Service, path: str, callers: int, seconds: float) -> Coroutine[Any, Any, Outcome]:
    return closed_loop(f"{service.url}{path}", [picture()], callers, seconds)


def picture() -> bytes:
    """A grey picture of the model's own size, as a PNG file of 150 KB.

    Not as a BMP, which is no ordinary photograph and so would be decoded in a process of its own.
    """
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (128, 128, 128)).save(file, "PNG", compress_level=0)
    return file.getvalue()


def aperture_config() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "configs/local.yaml").read_text())
    application = config["applications"][0]
    spec = {"resize_size": SIDE, "crop_size": SIDE}
    application["args"]["models"] = [{"name": "dummy", "engine": "dummy", "preprocessing": spec}]
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
