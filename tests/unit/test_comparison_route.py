"""GET /v2/models/{model}/comparison: the figures of a candidate as they were counted, and as they are described."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from jsonschema_rs import Draft202012Validator

from deployments.comparison import Comparisons, Disagreement, Trial
from deployments.errors import UnknownModel
from deployments.promotion import Report
from deployments.protocols.comparison import routes
from deployments.protocols.http import asgi_app
from deployments.protocols.openapi.document import document
from deployments.settings import Limits
from deployments.settings.promotion import Promotion
from tests.unit.answers import answer_of, info_of

TRIAL = Trial("0123456789abcdef", 1, 2, "shadow")
PROMOTION = Promotion.model_validate({"candidate": 2, "min_requests": 100, "bounds": {"min_agreement": 0.9}})
API = json.loads(document({"pets": info_of(1)}, {}))


class Plane:
    def __init__(self, report: Report) -> None:
        self.report = report

    async def comparison(self, model: str) -> Report:
        if model != self.report.model:
            raise UnknownModel(f"There is no model {model!r}.")
        return self.report


def got(report: Report, model: str = "pets", **headers: str) -> httpx.Response:
    app = asgi_app(routes(Plane(report)), Limits(), lambda: "test-id")

    async def exchange() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            return await client.get(f"/v2/models/{model}/comparison", headers=headers)

    return asyncio.run(exchange())


def described(response: httpx.Response) -> Any:
    """The body, which is what the OpenAPI document says of it."""
    schema = {"$ref": "#/components/schemas/Comparison", "components": API["components"]}
    Draft202012Validator(schema).validate(response.json())
    return response.json()


def counted(images: int = 200, trial: Trial = TRIAL) -> Comparisons:
    """Of which every tenth disagrees by 0.5."""
    comparisons = Comparisons()
    comparison = comparisons.of(trial)
    for number in range(images):
        other = (0.3, 0.7, 0.0) if number % 10 == 0 else (0.8, 0.2, 0.0)
        difference = comparison.add(
            answer_of(info_of(1), 0.8, 0.2, 0.0, seconds=0.01), answer_of(info_of(2), *other, seconds=0.02)
        )
        if not difference.agrees:
            comparison.keep(Disagreement(f"{number:064x}", difference))
        comparisons.answered(1, 0.015, trial)
    comparison.skip("busy", 7)
    return comparisons


def test_the_figures_of_a_candidate_are_those_that_were_counted() -> None:
    body = described(got(Report("pets", PROMOTION, TRIAL, counted())))
    trial = body["trial"]
    assert {name: trial[name] for name in ("stable", "candidate", "stage")} == {
        "stable": "1",
        "candidate": "2",
        "stage": "shadow",
    }
    mirrored = trial["mirrored"]
    assert (mirrored["images"], mirrored["agreement"], mirrored["skipped"]) == (200, 0.9, {"busy": 7})
    assert mirrored["difference"]["mean"] == pytest.approx(0.05, abs=1e-6)
    assert mirrored["difference"]["greatest"] == pytest.approx(0.5, abs=1e-6)
    assert sum(bucket["images"] for bucket in mirrored["difference"]["histogram"]) == 200
    assert mirrored["engine_ms"]["candidate"]["p50"] == pytest.approx(20, rel=0.06)
    assert mirrored["engine_ms"]["stable"]["p99"] == pytest.approx(10, rel=0.06)
    assert body["versions"]["1"]["images"] == 200
    assert body["versions"]["1"]["latency_ms"]["p50"] == pytest.approx(15, rel=0.06)


def test_the_worst_disagreements_name_the_image_and_both_labels() -> None:
    worst = described(got(Report("pets", None, TRIAL, counted())))["trial"]["mirrored"]["worst"]
    assert len(worst) == 10
    assert worst[0] == {
        "sha256": f"{190:064x}",
        "stable": "cat",
        "candidate": "dog",
        "difference": pytest.approx(0.5, abs=1e-6),
    }


def test_the_verdict_says_what_the_gate_makes_of_the_figures() -> None:
    verdict = described(got(Report("pets", PROMOTION, TRIAL, counted())))["trial"]["verdict"]
    assert (verdict["next"], verdict["min_requests"]) == ("shadow", 100)
    assert verdict["reason"].startswith("Out of bounds after 200 images compared: median time on the engine")
    held = {figure["name"]: figure["holds"] for figure in verdict["figures"]}
    assert held["top-1 agreement"]
    assert not held["median time on the engine over the stable one's"]


def test_without_a_promotion_there_are_figures_and_no_verdict() -> None:
    assert described(got(Report("pets", None, TRIAL, counted())))["trial"]["verdict"] is None


def test_a_trial_of_which_nothing_was_counted_yet_is_there() -> None:
    trial = described(got(Report("pets", PROMOTION, TRIAL, Comparisons())))["trial"]
    assert trial["mirrored"]["images"] == 0
    assert trial["verdict"]["reason"] == "0 of 100 images compared so far."


def test_stages_before_this_one_stand_below_it_the_latest_first() -> None:
    counts = counted()
    for stage in ("canary", "stable"):
        counts.merge(counted(3, Trial(TRIAL.configuration, 1, 2, stage)))
    now = Trial(TRIAL.configuration, 1, 2, "stable")
    body = described(got(Report("pets", PROMOTION.model_copy(update={"stage": "stable"}), now, counts)))
    assert [trial["stage"] for trial in [body["trial"], *body["earlier"]]] == ["stable", "canary", "shadow"]
    assert body["trial"]["verdict"]["reason"] == "Set by the configuration."


def test_without_a_candidate_versions_have_their_own_figures() -> None:
    counts = Comparisons()
    counts.answered(3, 0.01, None)
    counts.failed(4, None)
    body = described(got(Report("pets", None, None, counts)))
    assert body["trial"] is None
    assert {version: (of["images"], of["errors"]) for version, of in body["versions"].items()} == {
        "3": (1, 0),
        "4": (1, 1),
    }
    assert body["versions"]["4"]["latency_ms"] is None


def test_an_unknown_model_is_404() -> None:
    response = got(Report("pets", None, None, Comparisons()), model="others")
    assert (response.status_code, response.json()["code"]) == (404, "unknown_model")


def test_an_answer_is_compressed_for_who_can_read_that() -> None:
    response = got(Report("pets", PROMOTION, TRIAL, counted()), **{"accept-encoding": "gzip"})
    assert response.headers["content-encoding"] == "gzip"
    described(response)
