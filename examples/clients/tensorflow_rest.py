"""TensorFlow Serving's REST API: python -m examples.clients.tensorflow_rest [PICTURE] [--url URL]"""

import argparse
import base64
from pathlib import Path

import httpx


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", nargs="?", type=Path, default=Path("examples/pictures/heart.jpg"))
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    args = parser.parse_args()
    image = {"b64": base64.b64encode(args.picture.read_bytes()).decode()}
    response = httpx.post(f"{args.url}/v1/models/shapes:classify", json={"examples": [{"image": image}]})
    response.raise_for_status()
    (classes,) = response.json()["results"]
    for label, probability in classes[:3]:
        print(label, probability)


if __name__ == "__main__":
    main()
