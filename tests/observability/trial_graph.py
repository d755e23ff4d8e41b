"""An application whose model has three versions: one that answers, one that says something else, and one that cannot
be loaded. Served as `tests.observability.trial_graph:build`; its engines fail on demand, as in tests/faulty_graph.py.
"""

import numpy as np
from numpy.typing import NDArray
from ray.serve import Application

from deployments.classifier import Classifier
from deployments.engines.base import Images
from deployments.errors import ConfigError
from deployments.ingress import Ingress
from deployments.preprocessor import Preprocessor
from deployments.settings import ModelSettings, Settings
from graph import model_deployment, watched_deployment
from tests.faulty_graph import FaultyEngine

STABLE, CANARY, BROKEN = 1, 2, 3


def build(settings: Settings) -> Application:
    """graph.build, with these engines."""
    preprocessor = watched_deployment()(Preprocessor).bind(settings.limits, settings.preprocessor_threads)
    classifiers = {
        model.name: model_deployment(name=model.name)(Classifier).bind(model, TrialEngine) for model in settings.models
    }
    return watched_deployment()(Ingress).bind(settings, preprocessor, classifiers)


class TrialEngine(FaultyEngine):
    def __init__(self, settings: ModelSettings, version: int | None) -> None:
        if version == BROKEN:
            raise ConfigError(f"Version {version} of model {settings.name!r} is broken.")
        super().__init__(settings, version)

    def infer(self, images: Images) -> NDArray[np.float32]:
        logits = super().infer(images)
        return np.roll(logits, 1, axis=1) if self.info().version == CANARY else logits
