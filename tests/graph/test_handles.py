"""Python callers: `serve.get_app_handle("aperture")` in ordinary Ray tasks, actors and here."""

import io
from typing import Any

import numpy as np
import pytest
import ray
from PIL import Image
from ray import serve

from deployments.errors import BadRequest, BodyTooLarge, CorruptImage, UnknownModel
from tests.another_hand import LABELS
from tests.local_graph import Graph
from tests.reference import Reference, picture


@ray.remote(num_cpus=0)
def predict_in_a_task(image: bytes, top_k: int) -> dict[str, Any]:
    answer: dict[str, Any] = serve.get_app_handle("aperture").predict.remote(image, top_k=top_k).result(timeout_s=30)
    return answer


@ray.remote(num_cpus=0)
def fail() -> bytes:
    raise RuntimeError("The task that was to make an image failed.")


@ray.remote(num_cpus=0)
class Caller:
    async def predict(self, image: bytes) -> dict[str, Any]:
        answer: dict[str, Any] = await serve.get_app_handle("aperture").predict.remote(image)
        return answer


def test_a_synchronous_ray_task_can_predict(graph: Graph, reference: Reference) -> None:
    answer = ray.get(predict_in_a_task.remote(picture("hexagon"), 10))
    assert (answer["model"], answer["version"]) == ("shapes", reference.version)
    probabilities = {each["label"]: each["probability"] for each in answer["predictions"]}
    assert probabilities == pytest.approx(reference.probabilities(picture("hexagon")), abs=1e-4)


def test_an_asynchronous_actor_can_predict(graph: Graph) -> None:
    answer: Any = ray.get(Caller.remote().predict.remote(picture("heart")))  # type: ignore[attr-defined]
    assert answer["predictions"][0]["label"] == "heart"


@pytest.mark.parametrize("form", ["bytes", "array", "reference to bytes", "reference to an array"])
def test_an_image_may_be_bytes_an_array_or_a_reference_to_either(graph: Graph, form: str) -> None:
    encoded = picture("cross")
    image: Any = encoded if "bytes" in form else np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    image = ray.put(image) if "reference" in form else image
    answer = serve.get_app_handle("aperture").predict.remote(image, top_k=1).result(timeout_s=30)
    assert [each["label"] for each in answer["predictions"]] == ["cross"]


def test_predict_many_keeps_order_and_a_bad_image_fails_alone(graph: Graph) -> None:
    images: list[Any] = [picture(label) for label in LABELS]
    images[2] = b"not an image"
    images[4] = ray.put(images[4])
    images[6] = None
    images[8] = fail.remote()
    answer = serve.get_app_handle("aperture").predict_many.remote(images, top_k=1).result(timeout_s=30)
    found = [result["predictions"][0]["label"] if "predictions" in result else None for result in answer["results"]]
    assert found == [None if index in (2, 6, 8) else label for index, label in enumerate(LABELS)]
    assert [answer["results"][index]["code"] for index in (2, 6, 8)] == ["unsupported_format", *["bad_request"] * 2]


@pytest.mark.parametrize(
    ("image", "options", "error"),
    [
        pytest.param(picture("star")[:300], {}, CorruptImage, id="a truncated image"),
        pytest.param("a path.jpg", {}, BadRequest, id="a string"),
        pytest.param(np.zeros((4000, 4200, 3), np.uint8), {}, BodyTooLarge, id="an array over the limit"),
        pytest.param(picture("star"), {"model": "cats"}, UnknownModel, id="an unknown model"),
        pytest.param(picture("star"), {"top_k": 0}, BadRequest, id="no predictions asked for"),
    ],
)
def test_a_refusal_is_raised_as_its_own_class(
    graph: Graph, image: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        serve.get_app_handle("aperture").predict.remote(image, **options).result(timeout_s=30)
