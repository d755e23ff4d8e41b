"""Hugging Face's convention for image classification: python -m examples.clients.hugging_face [PICTURE] [--url URL]"""

import argparse
import base64
from pathlib import Path

import httpx


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", nargs="?", type=Path, default=Path("examples/pictures/heart.jpg"))
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    args = parser.parse_args()
    image = base64.b64encode(args.picture.read_bytes()).decode()
    response = httpx.post(args.url, json={"inputs": image, "parameters": {"top_k": 3}})
    response.raise_for_status()
    for each in response.json():
        print(each["label"], each["score"])


if __name__ == "__main__":
    main()
