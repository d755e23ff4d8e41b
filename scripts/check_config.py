"""Checks Serve configs strictly: `python -m scripts.check_config configs/*.yaml`.

Serve ignores keys that it does not know, so a misspelt `max_replica` would silently leave one replica. Here every key
must be one of Serve's schema, `args:` must be valid Settings, every deployment must be one of the graph's, and the
rules that join the two halves must hold. The first fault of each file is said in one sentence.
"""

import pkgutil
import sys
import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from ray.serve._private.constants import DEFAULT_MAX_ONGOING_REQUESTS
from ray.serve.schema import DeploymentSchema, ServeApplicationSchema, ServeDeploySchema

from deployments.errors import ConfigError
from deployments.settings import RESERVED_NAMES, LiveSettings, Settings, check_batch_can_fill, live_batch_size
from deployments.settings.administration import check_administration
from deployments.settings.keys import check_exposure
from scripts.check_autoscaling import POLICY, check_autoscaling

APPLICATION_NAME = "aperture"
IMPORT_PATH = "graph:build"


def main(paths: list[str]) -> int:
    faults = 0
    for path in paths:
        try:
            check_config(Path(path))
            print(f"{path}: ok")
        except ConfigError as err:
            faults += 1
            print(f"{path}: {err}", file=sys.stderr)
    return 1 if faults else 0


def check_config(path: Path) -> ServeDeploySchema:
    """The validated config. Raises ConfigError with one sentence."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_EachKeyOnce)
    except OSError as err:
        raise ConfigError(f"The config {str(path)!r} cannot be read: {err.strerror}.") from err
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise ConfigError(f"The config is not valid YAML: {' '.join(str(err).split())}.") from err
    refuse_unknown_keys(content, ServeDeploySchema, "config")
    try:
        config = ServeDeploySchema.model_validate(content)
    except ValidationError as err:
        fault = err.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        # Some of Serve's own messages are two sentences.
        reason = fault["msg"].removesuffix(".").replace(". ", "; ")
        raise ConfigError(f"The key {where!r} has the value {fault['input']!r}: {reason}.") from None
    except (ImportError, AttributeError) as err:
        raise ConfigError(f"A policy_function cannot be imported: {err}; Aperture's own is {POLICY!r}.") from None
    _check_proxies(config)
    _check_application(config)
    return config


class _EachKeyOnce(yaml.SafeLoader):
    """Refuses a key that a mapping has twice; YAML's own loader would keep the last and drop the others."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: list[object] = []
        for key, _ in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise ConfigError(
                    f"The key {key.value!r} on line {line} is there already; a mapping has each key once."
                )
            seen.append(key.value)
        return node


def refuse_unknown_keys(value: object, annotation: Any, where: str) -> None:
    """Raises ConfigError for a key that `annotation`, a pydantic model or a container of them, does not have."""
    model = _model_in(annotation)
    if model is None:
        return
    if isinstance(value, list):
        for index, item in enumerate(value):
            refuse_unknown_keys(item, model, f"{where}[{index}]")
    elif isinstance(value, dict):
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        for key, item in value.items():
            if key not in fields:
                raise ConfigError(f"{where} has the unknown key {key!r}; Serve knows {', '.join(sorted(fields))}.")
            refuse_unknown_keys(item, fields[key].annotation, f"{where}.{key}")


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model in an annotation such as `List[Model]`, `Optional[Model]` or `Union[Dict, Model, None]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, list):
        return next((model for part in get_args(annotation) if (model := _model_in(part))), None)
    return None


def _check_proxies(config: ServeDeploySchema) -> None:
    for options, port in (("http_options", config.http_options.port), ("grpc_options", config.grpc_options.port)):
        if not 1 <= port <= 65535:
            raise ConfigError(f"The key '{options}.port' has the value {port}; it must be between 1 and 65535.")
    for servicer in config.grpc_options.grpc_servicer_functions:
        try:
            known = callable(pkgutil.resolve_name(servicer))
        except (ImportError, AttributeError, ValueError):
            known = False
        if not known:
            raise ConfigError(
                f"The key 'grpc_options.grpc_servicer_functions' has the value {servicer!r}, which cannot be imported; "
                f"each must be the path of a function, such as package.module.add_Servicer_to_server."
            )


def _check_application(config: ServeDeploySchema) -> None:
    if len(config.applications) != 1:
        count = len(config.applications)
        raise ConfigError(f"A config holds one application, since gRPC clients name none; this one has {count}.")
    application = config.applications[0]
    if application.name != APPLICATION_NAME or application.import_path != IMPORT_PATH:
        raise ConfigError(f"The application must be named {APPLICATION_NAME!r} with import_path {IMPORT_PATH!r}.")
    if application.route_prefix != "/":
        raise ConfigError(f"The application's route_prefix is {application.route_prefix!r}; clients need it to be '/'.")
    settings = Settings.model_validate(application.args)
    check_exposure(settings.access, config.http_options.host)
    check_administration(settings.administration, settings.access, config.http_options.host)
    _check_deployments(application, settings)


def _check_deployments(application: ServeApplicationSchema, settings: Settings) -> None:
    models = {model.name: model for model in settings.models}
    known = (*RESERVED_NAMES, *models)
    configured: dict[str, DeploymentSchema] = {}
    for deployment in application.deployments:
        if deployment.name not in known:
            raise ConfigError(f"There is no deployment {deployment.name!r}; this graph has {', '.join(known)}.")
        if deployment.name in configured:
            raise ConfigError(f"deployments has two entries named {deployment.name!r}; each deployment may have one.")
        configured[deployment.name] = deployment
    for deployment in configured.values():
        if deployment.is_autoscaling_configured():
            check_autoscaling(deployment, configured.get("Ingress"), settings)
    for name, model in models.items():
        stated = configured[name].model_dump(exclude_unset=True) if name in configured else {}
        check_batch_can_fill(model, stated.get("max_ongoing_requests", DEFAULT_MAX_ONGOING_REQUESTS))
        live_batch_size(model, LiveSettings.model_validate(stated.get("user_config") or {}))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
