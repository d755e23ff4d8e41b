"""In a task of the same Ray cluster, without HTTP: RAY_AUTH_MODE=token python -m examples.clients.ray_task [PICTURE]"""

import argparse
from pathlib import Path
from typing import Any

import ray
from ray import serve


@ray.remote(num_cpus=0)
def classify(image: bytes) -> list[dict[str, Any]]:
    answer = serve.get_app_handle("aperture").predict.remote(image, top_k=3).result()
    predictions: list[dict[str, Any]] = answer["predictions"]
    return predictions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", nargs="?", type=Path, default=Path("examples/pictures/heart.jpg"))
    args = parser.parse_args()
    ray.init(address="auto")
    for prediction in ray.get(classify.remote(args.picture.read_bytes())):
        print(prediction["label"], prediction["probability"])


if __name__ == "__main__":
    main()
