"""POST /predict over real sockets: every form of a request, and answers equal to torchvision's own."""

import base64
import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.another_hand import LABELS
from tests.reference import Reference, encode, picture

# float32 sums in another order: batches, channels_last and threads move the last bits of a logit.
TOLERANCE = 1e-4


def assert_equals_reference(predictions: list[dict[str, Any]], encoded: bytes, reference: Reference) -> None:
    expected = reference.probabilities(encoded)
    assert [each["probability"] for each in predictions] == pytest.approx(
        sorted(expected.values(), reverse=True)[: len(predictions)], abs=TOLERANCE
    )
    for each in predictions:
        assert each["probability"] == pytest.approx(expected[each["label"]], abs=TOLERANCE)
        assert reference.labels[each["index"]] == each["label"]


@pytest.mark.parametrize("label", LABELS)
def test_a_raw_image_gets_the_answer_of_the_reference(client: httpx.Client, reference: Reference, label: str) -> None:
    body = client.post("/predict", content=picture(label)).json()
    assert set(body) == {"model", "version", "predictions", "request_id"}
    assert (body["model"], body["version"]) == ("shapes", reference.version)
    assert len(body["predictions"]) == 5
    assert_equals_reference(body["predictions"], picture(label), reference)


@pytest.mark.parametrize(
    "content_type",
    ["image/png", "image/jpeg", "application/octet-stream", "application/x-www-form-urlencoded", "nonsense", None],
    ids=["right", "wrong", "octets", "of curl --data-binary", "nonsense", "none"],
)
def test_the_content_type_of_a_raw_image_does_not_matter(client: httpx.Client, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    response = client.post("/predict", content=picture("star"), headers=headers)
    assert response.status_code == 200
    assert response.json()["predictions"][0]["label"] == "star"


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_allowed_format_is_decoded(client: httpx.Client, reference: Reference, image_format: str) -> None:
    encoded = encode(Image.open(io.BytesIO(picture("crescent"))), image_format)
    predictions = client.post("/predict", content=encoded).json()["predictions"]
    assert_equals_reference(predictions, encoded, reference)


def test_top_k_limits_the_predictions_and_more_than_all_gives_all(client: httpx.Client) -> None:
    one = client.post("/predict?top_k=1", content=picture("arrow")).json()["predictions"]
    everything = client.post("/predict?top_k=100", content=picture("arrow")).json()["predictions"]
    assert len(one) == 1
    assert len(everything) == len(LABELS)
    assert sum(each["probability"] for each in everything) == pytest.approx(1, abs=1e-5)


def test_the_model_is_chosen_by_name(client: httpx.Client) -> None:
    red = encode(Image.new("RGB", (64, 64), (250, 3, 3)), "PNG")
    body = client.post("/predict?model=colours", content=red).json()
    assert (body["model"], body["predictions"][0]["label"]) == ("colours", "red")


def test_multipart_answers_in_the_order_sent_and_a_bad_file_fails_alone(
    client: httpx.Client, reference: Reference
) -> None:
    files = [("file", (f"{label}.png", picture(label), "image/png")) for label in LABELS]
    files[3] = ("file", ("broken.png", picture("pentagon")[:400], "image/png"))
    body = client.post("/predict", files=files).json()
    assert [result["filename"] for result in body["results"]] == [name for _, (name, _, _) in files]
    assert body["results"][3]["code"] == "corrupt_image"
    for result, label in zip(body["results"], LABELS, strict=True):
        if label != LABELS[3]:
            assert_equals_reference(result["predictions"], picture(label), reference)


def test_json_takes_one_base64_image(client: httpx.Client, reference: Reference) -> None:
    body = client.post("/predict", json={"image": base64.b64encode(picture("heart")).decode()}).json()
    assert_equals_reference(body["predictions"], picture("heart"), reference)


def test_json_takes_a_list_of_base64_images_and_a_bad_one_fails_alone(client: httpx.Client) -> None:
    images = [base64.b64encode(data).decode() for data in (picture("star"), b"not an image", picture("cross"))]
    results = client.post("/predict", json={"images": images}).json()["results"]
    assert results[0]["predictions"][0]["label"] == "star"
    assert results[1]["code"] == "unsupported_format"
    assert results[2]["predictions"][0]["label"] == "cross"


@pytest.mark.parametrize("batched", [False, True], ids=["one array", "a batch of two"])
def test_input_data_answers_with_the_logits_of_the_same_picture(
    client: httpx.Client, reference: Reference, batched: bool
) -> None:
    shown = Image.open(io.BytesIO(picture("triangle"))).convert("RGB").resize((200, 150))
    floats = (np.asarray(shown, dtype=np.float64) / 255).transpose(2, 0, 1).round(4)
    input_data = np.stack([floats, floats]) if batched else floats
    output = client.post("/predict", json={"input_data": input_data.tolist()}).json()["output"]
    assert len(output) == (2 if batched else 1)
    for row in output:
        assert row == pytest.approx(reference.logits(shown).tolist(), abs=1e-3)


def test_every_response_has_one_request_id_and_the_stages_sum_to_the_total(client: httpx.Client) -> None:
    response = client.post("/predict", content=picture("square"))
    assert response.headers.get_list("x-request-id") == [response.json()["request_id"]]
    timing = {
        name: float(duration.removeprefix("dur="))
        for name, duration in (part.strip().split(";") for part in response.headers["server-timing"].split(","))
    }
    assert set(timing) == {"admission", "preprocess", "queue", "inference", "response", "total"}
    total = timing.pop("total")
    assert sum(timing.values()) == pytest.approx(total, abs=1e-6)


def test_the_request_id_of_the_client_is_kept(client: httpx.Client) -> None:
    response = client.post("/predict", content=picture("square"), headers={"x-request-id": "mine-42"})
    assert response.headers.get_list("x-request-id") == ["mine-42"]
    assert response.json()["request_id"] == "mine-42"


def test_health_and_metadata(client: httpx.Client, reference: Reference) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    metadata = client.get("/v2/models/shapes").json()
    assert metadata["labels"] == reference.labels
    assert metadata["versions"] == [str(reference.version)]
    assert metadata["preprocessing"]["crop_size"] == 128
