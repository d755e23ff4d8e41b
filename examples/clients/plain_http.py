"""POST /predict with nothing but the standard library: python -m examples.clients.plain_http [PICTURE] [--url URL]"""

import argparse
import json
from pathlib import Path
from urllib.request import Request, urlopen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", nargs="?", type=Path, default=Path("examples/pictures/heart.jpg"))
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    args = parser.parse_args()
    headers = {"Content-Type": "application/octet-stream"}
    with urlopen(Request(f"{args.url}/predict?top_k=3", args.picture.read_bytes(), headers)) as response:
        answer = json.load(response)
    for prediction in answer["predictions"]:
        print(prediction["label"], prediction["probability"])


if __name__ == "__main__":
    main()
