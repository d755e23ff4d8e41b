"""Open Inference Protocol over gRPC, with tritonclient: python -m examples.clients.triton_grpc [PICTURE] [--url URL]"""

import argparse
from pathlib import Path

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", nargs="?", type=Path, default=Path("examples/pictures/heart.jpg"))
    parser.add_argument("--url", default="127.0.0.1:9000")
    args = parser.parse_args()
    image = InferInput("IMAGE", [1], "BYTES")
    image.set_data_from_numpy(np.array([args.picture.read_bytes()], object))
    classes = InferRequestedOutput("PROBABILITIES", class_count=3)
    with InferenceServerClient(args.url) as client:
        result = client.infer("shapes", [image], outputs=[classes])
    for element in result.as_numpy("PROBABILITIES")[0]:
        probability, _, label = element.decode().split(":")
        print(label, probability)


if __name__ == "__main__":
    main()
