"""The rules of `autoscaling_config`, which join Serve's keys to those of the policy and of the graph."""

from typing import Any

from pydantic import ValidationError
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import DeploymentSchema

from deployments.autoscaling import PolicySettings
from deployments.errors import ConfigError
from deployments.settings import Settings

POLICY = "deployments.autoscaling:LatencyPolicy"
INGRESS = "Ingress"
# AutoscalingConfig.default, for num_replicas "auto".
AUTO_MAX_REPLICAS = 100


def check_autoscaling(deployment: DeploymentSchema, ingress: DeploymentSchema | None, settings: Settings) -> None:
    """Raises ConfigError with one sentence if the deployment, which is autoscaled, would not scale as it seems to."""
    config = _config(deployment)
    if deployment.name == INGRESS and config.min_replicas == 0:
        raise ConfigError(
            "Deployment 'Ingress' has min_replicas 0, but without an Ingress nobody is there to connect to."
        )
    if config.policy.policy_function in (POLICY, POLICY.replace(":", ".")):
        _check_policy(deployment.name, config)
        _check_calls(deployment.name, config, ingress, settings)
    elif deployment.name != INGRESS and settings.gathering is not None:
        raise ConfigError(
            f"Deployment {deployment.name!r} is autoscaled by calls in flight, each of which may carry many images; "
            f"set gathering to null in args, or policy_function to {POLICY!r}, which counts images."
        )


def _config(deployment: DeploymentSchema) -> AutoscalingConfig:
    stated: Any = deployment.autoscaling_config
    if isinstance(stated, AutoscalingConfig):
        return stated
    automatic = {"max_replicas": AUTO_MAX_REPLICAS} if deployment.num_replicas == "auto" else {}
    try:
        return AutoscalingConfig.model_validate({**automatic, **(stated if isinstance(stated, dict) else {})})
    except ValidationError as err:
        fault = err.errors()[0]
        where = ".".join(str(part) for part in ("autoscaling_config", *fault["loc"]))
        reason = fault["msg"].rstrip(".!")
        raise ConfigError(f"The key {where!r} of deployment {deployment.name!r} is not valid: {reason}.") from None


def _check_policy(name: str, config: AutoscalingConfig) -> None:
    if name == INGRESS:
        raise ConfigError("Deployment 'Ingress' has LatencyPolicy, but reports no figures of images for it.")
    try:
        PolicySettings.of(config.policy.policy_kwargs)
    except ValueError as err:
        raise ConfigError(f"In the policy of deployment {name!r}, {err}") from None
    for key in ("upscale_delay_s", "downscale_delay_s"):
        if getattr(config, key) != 0:
            raise ConfigError(
                f"Deployment {name!r} has {key} {getattr(config, key):g}, which would come on top of LatencyPolicy's "
                f"own hold_down_s; it must be 0."
            )
    if config.look_back_period_s < 3 * config.metrics_interval_s:
        raise ConfigError(
            f"Deployment {name!r} has look_back_period_s {config.look_back_period_s:g}, in which LatencyPolicy would "
            f"see too few reports; it must be at least {3 * config.metrics_interval_s:g}, 3 x metrics_interval_s."
        )


def _check_calls(name: str, config: AutoscalingConfig, ingress: DeploymentSchema | None, settings: Settings) -> None:
    """Gathering bounds the calls in flight; with fewer than one for each replica, some would never be asked."""
    if settings.gathering is None:
        return
    ingresses = _fewest(ingress)
    if (calls := settings.gathering.max_calls * ingresses) < config.max_replicas:
        raise ConfigError(
            f"Deployment {name!r} has max_replicas {config.max_replicas}, but gathering.max_calls "
            f"{settings.gathering.max_calls} of {ingresses} Ingress replicas keep only {calls} of them busy; raise "
            f"max_calls to {-(-config.max_replicas // ingresses)}."
        )


def _fewest(ingress: DeploymentSchema | None) -> int:
    if ingress is None:
        return 1
    if ingress.is_autoscaling_configured():
        return _config(ingress).min_replicas
    replicas = ingress.model_dump(exclude_unset=True).get("num_replicas")
    return replicas if isinstance(replicas, int) else 1
