"""The stages of a request add up to its whole time, in its line, in Server-Timing and in the metrics."""

import pytest

from deployments import metrics
from deployments.messages import Answer, Stages
from deployments.records import Record
from tests.unit.bytes_plane import info, logits_of, send


def answer(preprocess_s: float, queue_s: float, inference_s: float) -> Answer:
    return Answer(info("shapes", 3), logits_of(b"x"), logits_of(b"x"), Stages(preprocess_s, queue_s, inference_s))


@pytest.mark.parametrize("total_s", [0.0, 1e-6, 0.0123456, 0.1 + 0.2, 1234.56789])
def test_the_stages_add_up_to_the_last_digit(total_s: float) -> None:
    record = Record("predict", "/predict", "test-id", 0.0)
    record._stages_s["admission"] = total_s / 7
    record.answered([answer(total_s / 6, total_s / 5, total_s / 4), answer(0.0, 0.0, total_s / 9)])
    stages_ms = record.stages_ms(total_s)
    assert list(stages_ms) == ["admission", "preprocess", "queue", "inference", "response"]
    assert round(sum(stages_ms.values()), 6) == pytest.approx(round(total_s * 1000, 2), abs=0.021)
    assert all(duration_ms >= 0 for duration_ms in stages_ms.values())


def test_a_request_that_was_not_admitted_is_all_admission() -> None:
    stages_ms = Record("predict", "/predict", "test-id", 0.0).stages_ms(0.5)
    assert (stages_ms["admission"], stages_ms["response"]) == (500.0, 0.0)


def test_the_stages_of_what_is_answered_add_up_to_its_duration_in_the_metrics() -> None:
    def sums() -> tuple[float, float]:
        stages = [sample for sample in metrics.STAGE_DURATION.samples() if sample.name.endswith("_sum")]
        durations = [sample for sample in metrics.REQUEST_DURATION.samples() if sample.name.endswith("_sum")]
        return (
            sum(sample.value for sample in stages if sample.labels["model"] == "shapes"),
            sum(s.value for s in durations if s.labels["model"] == "shapes" and s.labels["result"] == "ok"),
        )

    before = sums()
    for _ in range(5):
        send("POST", "/predict", content=b"photo")
    send("POST", "/predict", content=b"bad")
    after = sums()
    assert after[0] - before[0] == pytest.approx(after[1] - before[1], abs=1e-9)
    assert after[0] - before[0] > 5 * 0.015


def test_what_comes_in_is_counted() -> None:
    before = received("others")
    send("POST", "/predict?model=others", files=[("file", ("a", b"photo")), ("file", ("b", b"pictures"))])
    assert received("others") == before + 13


def received(model: str) -> float:
    samples = metrics.RECEIVED_BYTES.samples()
    return sum(sample.value for sample in samples if sample.labels == {"protocol": "predict", "model": model})
