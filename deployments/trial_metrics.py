"""What is counted of versions and candidates, as metrics: by what has come since the last time.

Not image by image: the comparisons, which are kept in any case, have it all.
"""

from typing import Final

from deployments.comparison import Comparison, Comparisons, Served, Trial
from deployments.metrics import MirrorOutcome, count_mirrored, count_of_version, set_difference, set_latency

QUANTILES: Final = (0.5, 0.99)
# So many images have a 99th percentile of their own; where fewer came since the last time, it is that of all.
LEAST_RECENT: Final = 100


class TrialMetrics:
    """Of one model in one Ingress replica."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._exported = Comparisons()

    def export(self, counted: Comparisons) -> None:
        for version, served in counted.served.items():
            self._export_version(version, served, served.since(self._exported.served.get(version, Served())))
        for trial, comparison in counted.trials.items():
            self._export_trial(trial, comparison, comparison.since(self._exported.trials.get(trial, Comparison())))
        self._exported = counted.copy()

    def _export_version(self, version: int, total: Served, since: Served) -> None:
        if since.latency.count:
            count_of_version(self._model, version, "answered", since.latency.count)
            latency = since.latency if since.latency.count >= LEAST_RECENT else total.latency
            for quantile in QUANTILES:
                set_latency(self._model, version, quantile, latency.quantile(quantile))
        if since.errors:
            count_of_version(self._model, version, "failed", since.errors)

    def _export_trial(self, trial: Trial, total: Comparison, since: Comparison) -> None:
        images: dict[MirrorOutcome, int] = {
            "agreed": since.agreements,
            "disagreed": since.count - since.agreements,
            "failed": since.errors,
        }
        images.update({reason: since.skipped[reason] for reason in since.skipped})
        for outcome, count in images.items():
            if count:
                count_mirrored(self._model, trial.candidate, outcome, count)
        if since.count:
            set_difference(self._model, trial.candidate, "mean", total.differences.mean)
            set_difference(self._model, trial.candidate, "greatest", total.differences.greatest)
