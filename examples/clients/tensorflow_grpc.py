"""TensorFlow Serving's gRPC API: python -m examples.clients.tensorflow_grpc [PICTURE] [--url URL]

With the package tensorflow-serving-api, take these messages and stubs from tensorflow_serving.apis instead.
"""

import argparse
from pathlib import Path

import grpc

from deployments.protocols.generated.tensorflow_serving_pb2 import ClassificationRequest
from deployments.protocols.generated.tensorflow_serving_pb2_grpc import PredictionServiceStub


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", nargs="?", type=Path, default=Path("examples/pictures/heart.jpg"))
    parser.add_argument("--url", default="127.0.0.1:9000")
    args = parser.parse_args()
    request = ClassificationRequest()
    request.model_spec.name = "shapes"
    example = request.input.example_list.examples.add()
    example.features.feature["image"].bytes_list.value.append(args.picture.read_bytes())
    with grpc.insecure_channel(args.url) as channel:
        response = PredictionServiceStub(channel).Classify(request, timeout=10)
    for each in response.result.classifications[0].classes[:3]:
        print(each.label, each.score)


if __name__ == "__main__":
    main()
