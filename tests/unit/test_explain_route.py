"""POST /explain: an answer as /predict has it with the heat map beside it, and every refusal in a sentence."""

import io
import json

import httpx
import pytest
from jsonschema_rs import Draft202012Validator
from PIL import Image

from deployments.errors import ApertureError, NotExplainable, Overloaded
from deployments.protocols.openapi.document import document
from deployments.settings import Pages
from tests.unit.answers import info_of
from tests.unit.bytes_plane import LABELS, BytesPlane, expected_predictions, predict, refusal, send
from tests.unit.ingress_app import StartingPlane, service
from tests.unit.test_pages import get

API = json.loads(document({"pets": info_of(1)}, {}))


def picture(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def explained(image: bytes, plane: BytesPlane | None = None, **query: str) -> httpx.Response:
    return send("POST", "/explain", plane, params=query, content=image)


def test_an_answer_has_the_predictions_of_predict_and_where_the_best_one_was_found() -> None:
    image = picture(300, 100)
    body = explained(image, top_k="2").json()
    Draft202012Validator({"$ref": "#/components/schemas/Explanation", "components": API["components"]}).validate(body)
    assert {name: body[name] for name in ("model", "version", "request_id")} == {
        "model": "shapes",
        "version": 3,
        "request_id": "test-id",
    }
    assert body["predictions"] == expected_predictions(image, 2)
    assert body["predictions"] == predict(query={"top_k": "2"}, content=image).json()["predictions"]
    assert (body["label"], body["index"]) == (body["predictions"][0]["label"], body["predictions"][0]["index"])
    assert body["heat"] == {"height": 3, "width": 4, "values": [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]}
    # Of 768 x 256 pixels the 224 x 224 in the middle.
    assert body["area"] == pytest.approx({"top": 16 / 256, "left": 272 / 768, "height": 224 / 256, "width": 224 / 768})


def test_another_class_is_explained_by_its_index() -> None:
    body = explained(picture(9, 9), index="2").json()
    assert (body["index"], body["label"]) == (2, LABELS[2])


def test_an_image_whose_header_says_no_size_has_no_area() -> None:
    assert explained(b"only this plane takes it").json()["area"] is None


def test_the_answer_names_its_version_and_where_its_time_went() -> None:
    headers = explained(picture(9, 9), model="others").headers
    assert headers["x-model-version"] == "4"
    assert "inference;dur=3.00" in headers["server-timing"]


@pytest.mark.parametrize("index", ["-1", "1.5", "", "heart", "9" * 10, "٣"])
def test_an_index_that_is_no_number_of_a_class_is_refused_before_the_image_costs_anything(index: str) -> None:
    plane = BytesPlane()
    assert "index must be the number of a class" in refusal(explained(b"image", plane, index=index), 400, "bad_request")
    assert plane.images == []


def test_the_refusals_of_predict_are_those_of_explain() -> None:
    refusal(explained(b""), 400, "bad_request")
    refusal(explained(b"bad image"), 422, "corrupt_image")
    refusal(explained(b"image", top_k="0"), 400, "bad_request")
    refusal(explained(b"image", model="nothing"), 404, "unknown_model")
    refusal(explained(b"image", version="9"), 404, "unknown_model")
    refusal(explained(bytes(1_000_001)), 413, "body_too_large")


@pytest.mark.parametrize(
    ("failure", "status"), [(NotExplainable("It is no network."), 409), (Overloaded("Another one.", 1.0), 503)]
)
def test_what_cannot_be_explained_says_why(failure: ApertureError, status: int) -> None:
    response = explained(b"image", BytesPlane(failure))
    assert refusal(response, status, failure.code) == failure.message
    assert response.headers.get("retry-after") == ("1" if status == 503 else None)
    assert str(status) in API["paths"]["/explain"]["post"]["responses"]


def test_an_operator_may_switch_heat_maps_off() -> None:
    response = get(service(StartingPlane(), Pages(heat_maps=False)), "/explain", "POST", content=picture(9, 9))
    assert (response.status_code, response.json()["code"]) == (404, "heat_maps_off")
    assert get(service(StartingPlane()), "/explain", "POST", content=picture(9, 9)).status_code == 200
