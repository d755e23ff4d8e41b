"""Aperture's deployment graph: the map.

    client -> proxy -> Ingress --encoded image--> Preprocessor --uint8 (H, W, 3)--> Classifier --> Ingress -> client
                       protocols,                 decode, resize,                   one per model, batched,
                       limits, deadlines          crop; on CPU cores                on a GPU or CPU cores

`serve run configs/NAME.yaml` calls `build` with the file's `args:`. How many replicas each deployment has, and on what
they run, stands in the file's `deployments:`, under the names Ingress, Preprocessor and those of the models.
"""

# No `from __future__ import annotations` here: Serve reads the type of `settings` from the signature at run time, and a
# string would switch the validation off.

from functools import partial

from ray.serve import Application, deployment

from deployments.classifier import Classifier
from deployments.ingress import Ingress
from deployments.preprocessor import Preprocessor
from deployments.settings import ModelSettings, Settings, Traces

# Serve tries a constructor 20 times by default; settings or a model that do not work twice will not work then either.
RETRIES = 2
# A dead replica is noticed at the next check, and a process that is stopped when three of them have timed out: together
# within ten seconds. A check costs the replica and the controller less than a millisecond each.
watched_deployment = partial(deployment, health_check_period_s=1, health_check_timeout_s=3)
# Serve's own router gives a slow replica of two a third of the calls, and knows nothing of versions, of which a replica
# tells as often as of its health.
model_deployment = partial(
    watched_deployment,
    request_router_config={
        "request_router_class": "deployments.routing:FirstDoneRouter",
        "request_routing_stats_period_s": 1,
    },
)


def build(settings: Settings) -> Application:
    """The application of a config. Serve validates `args:` as Settings; a wrong one raises ConfigError."""
    traces = settings.telemetry.traces
    preprocessor = watched_deployment()(Preprocessor).bind(settings.limits, settings.preprocessor_threads, traces)
    classifiers = {model.name: _classifier(model, traces) for model in settings.models}
    return watched_deployment(max_constructor_retry_count=RETRIES)(Ingress).bind(settings, preprocessor, classifiers)


def _classifier(model: ModelSettings, traces: Traces | None) -> Application:
    return model_deployment(name=model.name, max_constructor_retry_count=RETRIES)(Classifier).bind(model, traces=traces)
