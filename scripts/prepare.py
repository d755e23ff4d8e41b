"""Builds, checks and measures the engines of a config's models beforehand: `python -m scripts.prepare configs/*.yaml`.

A replica does the same at its first start on a machine. Doing it when the machine or an image is set up makes that
start as quick as all later ones. What is built lies in the cache (deployments/engines/artefacts.py).
"""

import sys
from pathlib import Path

from ray.serve.schema import ServeApplicationSchema

from deployments.engines import create_engine
from deployments.errors import ConfigError
from deployments.settings import Settings, with_threads
from scripts.check_config import check_config


def main(paths: list[str]) -> int:
    faults = 0
    for path in paths:
        try:
            prepare(check_config(Path(path)).applications[0])
        except ConfigError as err:
            faults += 1
            print(f"{path}: {err}", file=sys.stderr)
    return 1 if faults else 0


def prepare(application: ServeApplicationSchema) -> None:
    """Raises ConfigError if one of the models cannot be served here."""
    stated = {deployment.name: deployment.model_dump(exclude_unset=True) for deployment in application.deployments}
    for model in Settings.model_validate(application.args).models:
        num_cpus = stated.get(model.name, {}).get("ray_actor_options", {}).get("num_cpus", 1)
        create_engine(with_threads(model, num_cpus))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
