"""POST /explain over real sockets: the answer of /predict, the heat where the shape is, and refusals in a sentence.

Engines are whatever was found to be the fastest; the first request starts a process that loads torch.
"""

from typing import Any

import httpx
import pytest
from PIL import Image, ImageDraw

from tests.awaiting import await_condition
from tests.reference import encode, picture

LOADED_TIMEOUT_S = 240.0
# The least and the greatest share of a side that a shape in the corner covers.
CORNER = (0.05, 0.45)


@pytest.fixture(scope="module", autouse=True)
def _loaded(graph: Any) -> None:
    """The process has started, which takes the first request beyond its deadline where the machine is busy."""
    with httpx.Client(base_url=graph.url, timeout=60) as client:
        await_condition(
            lambda: client.post("/explain", content=picture("star")).status_code == 200,
            LOADED_TIMEOUT_S,
            "torch is loaded",
        )


def triangle(right: bool, low: bool) -> bytes:
    """A PNG of 256 x 128 pixels with a triangle in a corner of the square in the middle, which the model sees."""
    (left, end), (top, bottom) = (
        (start + 128 * CORNER[0], start + 128 * CORNER[1]) for start in (64 + 64 * right, 64 * low)
    )
    drawn = Image.new("RGB", (256, 128), (235, 235, 225))
    ImageDraw.Draw(drawn).polygon([((left + end) / 2, top), (end, bottom), (left, bottom)], fill=(30, 60, 160))
    return encode(drawn, "PNG")


@pytest.mark.parametrize(("right", "low"), [(False, False), (True, True)])
def test_the_heat_is_where_the_shape_is(client: httpx.Client, right: bool, low: bool) -> None:
    image = triangle(right, low)
    response = client.post("/explain?top_k=3", content=image)
    body = response.json()
    predicted = client.post("/predict?top_k=3", content=image).json()
    assert [each["label"] for each in body["predictions"]] == [each["label"] for each in predicted["predictions"]]
    assert [each["probability"] for each in body["predictions"]] == pytest.approx(
        [each["probability"] for each in predicted["predictions"]], abs=1e-4
    )
    assert (body["label"], body["index"]) == ("triangle", 2)
    rows = body["heat"]["values"]
    assert (body["heat"]["height"], body["heat"]["width"]) == (len(rows), len(rows[0])) == (4, 4)
    places = [(value, column >= 2, row >= 2) for row, values in enumerate(rows) for column, value in enumerate(values)]
    assert max(places) == (1.0, right, low)
    assert body["area"] == {"top": 0, "left": 0.25, "height": 1, "width": 0.5}
    assert response.headers["x-model-version"] == str(body["version"])


def test_another_class_has_another_heat_map(client: httpx.Client) -> None:
    image = picture("heart")
    best, other = (client.post(f"/explain{query}", content=image).json() for query in ("", "?index=0"))
    assert (best["label"], other["label"], other["index"]) == ("heart", "circle", 0)
    assert best["heat"] != other["heat"]


def test_refusals_are_those_of_predict_or_say_what_cannot_be_explained(client: httpx.Client) -> None:
    def refused(content: bytes, query: str = "") -> tuple[int, str]:
        response = client.post(f"/explain{query}", content=content)
        assert response.json()["error"].endswith(".")
        return response.status_code, response.json()["code"]

    assert refused(picture("star"), "?model=colours") == (409, "not_explainable")
    assert refused(picture("star"), "?index=10") == (400, "bad_request")
    assert refused(b"This is no image, whatever it says of itself.") == (415, "unsupported_format")
    assert refused(picture("star")[:-20] + bytes(20)) == (422, "corrupt_image")
    assert refused(picture("star"), "?version=77") == (404, "unknown_model")
