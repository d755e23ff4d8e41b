"""Makes the files beside this one: what clients send that cannot be installed next to Aperture's own pins.

    python -m tests.conformance.golden.make kserve         with kserve 0.21.0, which needs another protobuf
    python -m tests.conformance.golden.make tensorflow     with tensorflow-serving-api 2.21.0, which needs TensorFlow

Each in a virtual environment of its own, from the root of the repository. *.http are requests as they went over a wire;
*.pb are messages, and their names begin with the name of the method. test_golden.py sends them to the service.
"""

import argparse
import asyncio
import base64
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
IMAGE = (FOLDER / "heart.jpg").read_bytes()
Ask = Callable[[str], Awaitable[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("client", choices=("kserve", "tensorflow"))
    {"kserve": kserve, "tensorflow": tensorflow}[parser.parse_args().client]()


def kserve() -> None:
    import numpy as np
    from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig  # type: ignore[import-not-found]

    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))

    def image(binary: bool) -> Any:
        tensor = InferInput("IMAGE", [1], "BYTES")
        data = IMAGE if binary else base64.b64encode(IMAGE)
        tensor.set_data_from_numpy(np.array([data], np.object_), binary_data=binary)
        return InferRequest("shapes", [tensor], request_id="kserve-1")

    asks: dict[str, Ask] = {
        "live": client.is_server_live,
        "ready": client.is_server_ready,
        "model-ready": lambda url: client.is_model_ready(url, "shapes"),
        "infer-json": lambda url: client.infer(url, image(False), "shapes"),
        "infer-binary": lambda url: client.infer(url, image(True), "shapes"),
    }
    for name, ask in asks.items():
        (FOLDER / f"kserve-{name}.http").write_bytes(recorded(ask))
    typed = InferRequest("shapes", [InferInput("IMAGE", [1], "BYTES", data=[IMAGE])], request_id="kserve-1")
    write("ModelInfer-kserve-raw", image(True).to_grpc())
    write("ModelInfer-kserve-typed", typed.to_grpc())


def tensorflow() -> None:
    import tensorflow as tf  # type: ignore[import-untyped]
    from tensorflow_serving.apis import (  # type: ignore[import-not-found]
        classification_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        predict_pb2,
    )

    predict = predict_pb2.PredictRequest()
    predict.model_spec.name, predict.model_spec.signature_name = "shapes", "serving_default"
    predict.inputs["IMAGE"].CopyFrom(tf.make_tensor_proto([IMAGE], shape=[1]))
    write("Predict-string", predict)
    pixels = tf.io.decode_jpeg(IMAGE).numpy()[None]
    del predict.inputs["IMAGE"]
    predict.inputs["PIXELS"].CopyFrom(tf.make_tensor_proto(pixels))
    predict.output_filter.append("PROBABILITIES")
    write("Predict-pixels", predict)
    classify = classification_pb2.ClassificationRequest()
    classify.model_spec.name = "shapes"
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[IMAGE]))
    example = tf.train.Example(features=tf.train.Features(feature={"image/encoded": feature}))
    classify.input.example_list.examples.extend([example, example])
    write("Classify", classify)
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    metadata.model_spec.name = "shapes"
    write("GetModelMetadata", metadata)
    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = "shapes"
    status.model_spec.version.value = 1
    write("GetModelStatus", status)


def write(name: str, message: Any) -> None:
    (FOLDER / f"{name}.pb").write_bytes(message.SerializeToString(deterministic=True))


def recorded(ask: Ask) -> bytes:
    """The bytes of the request that `ask` sends, which is answered with an error."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        received: list[bytes] = []
        listener = threading.Thread(target=lambda: received.append(_listen(server)))
        listener.start()
        with suppress(Exception):  # The client's, about that error.
            asyncio.run(_once(ask, f"http://127.0.0.1:{server.getsockname()[1]}"))
        listener.join()
    return received[0]


async def _once(ask: Ask, url: str) -> None:
    await ask(url)


def _listen(server: socket.socket) -> bytes:
    connection, _ = server.accept()
    with connection:
        request = b""
        while not _is_complete(request):
            request += connection.recv(2**16)
        connection.sendall(b"HTTP/1.1 500 Recorded\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    return request


def _is_complete(request: bytes) -> bool:
    head, end, body = request.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(end) and len(body) >= int(lengths[0] if lengths else 0)


if __name__ == "__main__":
    main()
