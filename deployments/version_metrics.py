"""What there is of a model in one Classifier replica, as metrics: its versions, their states, and what they run on."""

from collections.abc import Iterable

from deployments.messages import ModelInfo, VersionStatus
from deployments.metrics import ENGINE_INFO, VERSION_STATE

Labels = tuple[str, ...]


class VersionMetrics:
    def __init__(self, model: str) -> None:
        self._model = model
        self._states: set[Labels] = set()
        self._engines: set[Labels] = set()

    def export(self, statuses: Iterable[VersionStatus], serving: Iterable[ModelInfo]) -> None:
        """Costs next to nothing while nothing changes."""
        states: set[Labels] = {(self._model, str(status.version), status.state) for status in statuses}
        engines: set[Labels] = {
            (self._model, str(info.version), info.engine, info.precision, info.device) for info in serving
        }
        for gauge, before, now in ((VERSION_STATE, self._states, states), (ENGINE_INFO, self._engines, engines)):
            for labels in before - now:
                gauge.set(0, *labels)
            for labels in now - before:
                gauge.set(1, *labels)
        self._states, self._engines = states, engines
