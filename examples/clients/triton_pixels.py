"""Preprocesses by itself, as Triton's image_client.py: python -m examples.clients.triton_pixels [PICTURE] [--url URL]

The metadata says to what size, and by which mean and deviation; the service then takes the tensor as it is.
"""

import argparse

import numpy as np
from PIL import Image, ImageOps
from tritonclient.http import InferenceServerClient, InferInput


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", nargs="?", default="examples/pictures/heart.jpg")
    parser.add_argument("--url", default="127.0.0.1:8000", help="without http://")
    args = parser.parse_args()
    with InferenceServerClient(args.url) as client:
        metadata = client.get_model_metadata("shapes")
        spec, labels = metadata["preprocessing"], metadata["labels"]
        side = (spec["crop_size"], spec["crop_size"])
        picture = ImageOps.fit(Image.open(args.picture).convert("RGB"), side, Image.Resampling.BILINEAR)
        values = (np.asarray(picture) / 255 - spec["mean"]) / spec["std"]
        tensor = InferInput("INPUT", [1, 3, *side], "FP32")
        tensor.set_data_from_numpy(values.astype(np.float32).transpose(2, 0, 1)[None])
        probabilities = client.infer("shapes", [tensor]).as_numpy("PROBABILITIES")[0]
    for index in probabilities.argsort()[:-4:-1]:
        print(labels[index], probabilities[index])


if __name__ == "__main__":
    main()
