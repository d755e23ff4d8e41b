"""TensorFlow Serving's ReloadConfigRequest, read: which versions and labels each model is to have.

The messages are those of tensorflow_serving/config/model_server_config.proto. What has no counterpart here, like the
model's platform and its logging, is skipped.
"""

from collections.abc import Mapping
from typing import Final

from deployments.errors import BadRequest, ConfigError
from deployments.messages import ModelConfig
from deployments.protocols.generated import tensorflow_serving_pb2 as pb
from deployments.protocols.json_bodies import quoted
from deployments.settings import VersionPolicy

# Of one request. Each version is looked for in every replica, and each model's name is compared with all.
MAX_ENTRIES: Final = 1000


def configs_of(request: pb.ReloadConfigRequest) -> Mapping[str, ModelConfig]:
    """By the model's name. Raises BadRequest."""
    if request.config.WhichOneof("config") != "model_config_list":
        raise BadRequest("A request to reload needs a model_config_list.")
    listed = request.config.model_config_list.config
    if not 1 <= len(listed) <= MAX_ENTRIES:
        raise BadRequest(f"The model_config_list has {len(listed)} models, where 1 to {MAX_ENTRIES} may be.")
    configs: dict[str, ModelConfig] = {}
    for config in listed:
        if config.name in configs:
            raise BadRequest(f"The model_config_list names the model {quoted(config.name)} twice.")
        configs[config.name] = ModelConfig(_policy(config), _labels(config), config.base_path)
    return configs


def _policy(config: pb.ModelConfig) -> VersionPolicy:
    policy = config.model_version_policy
    kind = policy.WhichOneof("policy_choice")
    if kind == "all":
        return VersionPolicy(all=True)
    if kind == "specific":
        _check_count(config, "versions", len(policy.specific.versions))
        try:
            return VersionPolicy(specific=tuple(policy.specific.versions))
        except ConfigError as err:
            raise BadRequest(f"The model_version_policy of {quoted(config.name)}: {err}") from None
    # Of a policy that is not there, and of a number that is not, the default is 1.
    return VersionPolicy(latest=max(1, policy.latest.num_versions))


def _labels(config: pb.ModelConfig) -> Mapping[str, int]:
    _check_count(config, "labels", len(config.version_labels))
    return dict(config.version_labels)


def _check_count(config: pb.ModelConfig, what: str, count: int) -> None:
    if count > MAX_ENTRIES:
        raise BadRequest(f"The model {quoted(config.name)} has {count} {what}; at most {MAX_ENTRIES} are taken.")
