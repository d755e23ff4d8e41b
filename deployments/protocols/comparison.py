"""GET /v2/models/{model}/comparison: a candidate version beside the one that answers, and every version's own figures.

    versions   images, errors and latency of each version's answers to requests
    trial      the candidate's stage with its figures, and what the gate makes of them; null while there is none
    earlier    the same for the stages and settings before, the latest first

Latencies are milliseconds. Figures are those of all Ingress replicas since they started.
"""

from collections.abc import Mapping
from typing import Any, Final, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.comparison import Comparison, Served, Trial
from deployments.histograms import Histogram
from deployments.promotion import Report, decide, figures_of
from deployments.protocols.encoding import compress
from deployments.settings.promotion import Promotion

PATH: Final = "/v2/models/{model}/comparison"
QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)


class ComparingPlane(Protocol):
    async def comparison(self, model: str) -> Report:
        """Of all Ingress replicas together. Raises UnknownModel."""
        ...


def routes(plane: ComparingPlane) -> list[Route]:
    async def comparison(request: Request) -> Response:
        report = await plane.comparison(request.path_params["model"])
        return compress(JSONResponse(render(report)), request.headers.get("accept-encoding", ""))

    return [Route(PATH, comparison)]


def render(report: Report) -> dict[str, Any]:
    trials = report.counted.trials
    earlier = [_trial(trial, trials[trial]) for trial in reversed(trials) if trial != report.trial]
    current = None
    if report.trial is not None:
        comparison = trials.get(report.trial, Comparison())
        verdict = None if report.promotion is None else _verdict(report.promotion, comparison)
        current = _trial(report.trial, comparison) | {"verdict": verdict}
    versions = {str(version): _served(served) for version, served in sorted(report.counted.served.items())}
    return {"model": report.model, "versions": versions, "trial": current, "earlier": earlier}


def _trial(trial: Trial, counted: Comparison) -> dict[str, Any]:
    return {
        "stable": str(trial.stable),
        "candidate": str(trial.candidate),
        "stage": trial.stage,
        "configuration": trial.configuration,
        "mirrored": _mirrored(counted),
        "served": {"stable": _served(counted.stable_served), "candidate": _served(counted.candidate_served)},
    }


def _mirrored(counted: Comparison) -> dict[str, Any]:
    """Of images that both versions have answered; `engine_ms` is the time of the batch that each was in."""
    differences = counted.differences
    return {
        "images": counted.count,
        "agreement": round(counted.agreement, 6),
        "difference": {"mean": differences.mean, "greatest": differences.greatest, "histogram": _buckets(differences)},
        "unshared_labels": counted.unshared_labels,
        "engine_ms": {
            "stable": _milliseconds(counted.stable_engine),
            "candidate": _milliseconds(counted.candidate_engine),
        },
        "errors": counted.errors,
        "skipped": dict(counted.skipped),
        "worst": [
            {
                "sha256": each.image,
                "stable": each.difference.stable_label,
                "candidate": each.difference.candidate_label,
                "difference": each.difference.greatest,
            }
            for each in counted.worst
        ],
    }


def _verdict(promotion: Promotion, counted: Comparison) -> dict[str, Any]:
    """`next`: the stage that the figures call for, which is the present one where they call for nothing."""
    decision = decide(promotion, counted, counted)
    figures = figures_of(promotion.stage, counted, promotion.bounds)
    return {
        "next": decision.stage,
        "reason": decision.reason or "Set by the configuration.",
        "min_requests": promotion.min_requests,
        "figures": [
            {
                "name": figure.name,
                "value": figure.value,
                "bound": figure.bound,
                "is_least": figure.is_least,
                "holds": figure.holds,
            }
            for figure in figures
        ],
    }


def _served(served: Served) -> dict[str, Any]:
    return {"images": served.count, "errors": served.errors, "latency_ms": _milliseconds(served.latency)}


def _milliseconds(latency: Histogram) -> Mapping[str, float] | None:
    """Quantiles as {"p50": ...}, 6 % off at most; None while there is nothing to take them of."""
    if not latency.count:
        return None
    return {f"p{100 * quantile:g}": round(1000 * latency.quantile(quantile), 3) for quantile in QUANTILES}


def _buckets(histogram: Histogram) -> list[dict[str, float]]:
    return [{"from": low, "to": high, "images": count} for low, high, count in histogram.buckets()]
