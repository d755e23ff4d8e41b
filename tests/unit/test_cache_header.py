"""x-cache: every protocol says where its answers came from, of a model that has a cache, and nothing of any other."""

import json
from dataclasses import replace
from typing import Any

import grpc
import pytest

from deployments.errors import ApertureError
from deployments.messages import Answer, Cached, ImageInput, ModelInfo
from deployments.protocols.generated import inference_pb2 as pb
from tests.unit.bytes_plane import BytesPlane, base64_of, part, send
from tests.unit.oip_requests import encoded, image_input
from tests.unit.rpc_server import INFERENCE, TIMEOUT_S, exchange

ORIGINS: tuple[Cached, ...] = ("miss", "joined", "hit")


class CachingPlane(BytesPlane):
    """Answers come from where the image says."""

    def _answer(self, image: ImageInput | ApertureError, answering: ModelInfo, number: int) -> Answer | ApertureError:
        answer = super()._answer(image, answering, number)
        origin: Cached | None = next((each for each in ORIGINS if image == each.encode()), None)
        return replace(answer, cached=origin) if isinstance(answer, Answer) else answer


def cache_of(path: str, **request: Any) -> str | None:
    response = send("POST", path, CachingPlane(), **request)
    assert response.status_code == 200, response.text
    origin: str | None = response.headers.get("x-cache")
    return origin


def as_json(body: object) -> dict[str, Any]:
    return {"content": json.dumps(body), "headers": {"content-type": "application/json"}}


REQUESTS = {
    "plain": ("/predict", lambda image: {"content": image}),
    "hugging face": ("/", lambda image: {"content": image}),
    "oip": ("/v2/models/shapes/infer", lambda image: as_json({"inputs": [image_input(image)]})),
    "tensorflow": ("/v1/models/shapes:predict", lambda image: as_json({"instances": [{"b64": base64_of(image)}]})),
}


@pytest.mark.parametrize(("path", "request_of"), REQUESTS.values(), ids=REQUESTS)
def test_the_header_says_where_the_answer_came_from(path: str, request_of: Any) -> None:
    for origin in ORIGINS:
        assert cache_of(path, **request_of(origin.encode())) == origin


@pytest.mark.parametrize(("path", "request_of"), REQUESTS.values(), ids=REQUESTS)
def test_without_a_cache_there_is_no_header(path: str, request_of: Any) -> None:
    assert cache_of(path, **request_of(b"photo")) is None


@pytest.mark.parametrize(
    ("images", "origin"),
    [(("hit", "joined", "miss"), "miss"), (("hit", "joined", "bad"), "joined"), (("hit", "hit"), "hit")],
    ids=" ".join,
)
def test_of_several_images_the_one_that_cost_the_most_counts(images: tuple[str, ...], origin: str) -> None:
    content = b"".join(part("a.png", image.encode()) for image in images) + b"--edge--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=edge"}
    assert cache_of("/predict", content=content, headers=headers) == origin


def test_over_grpc_it_is_in_the_trailing_metadata() -> None:
    async def ask(channel: grpc.aio.Channel) -> list[str | None]:
        found = []
        for image in (b"hit", b"photo"):
            tensor = pb.ModelInferRequest.InferInputTensor(name="IMAGE", datatype="BYTES", shape=[1])
            request = pb.ModelInferRequest(model_name="shapes", inputs=[tensor], raw_input_contents=[encoded(image)])
            running = INFERENCE(channel).ModelInfer(request, timeout=TIMEOUT_S)
            await running
            found.append(dict(await running.trailing_metadata()).get("x-cache"))
        return found

    assert exchange(ask, CachingPlane()) == ["hit", None]
