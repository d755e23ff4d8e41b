"""What is tuned of one model, and where a Serve config says it."""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from deployments.settings import ModelSettings, Settings, with_threads

# A serve config, or a part of it, as YAML has it.
Config = dict[str, Any]
Path = tuple[str | int, ...]

INGRESS, PREPROCESSOR = "Ingress", "Preprocessor"
# What Serve takes where a config says nothing (ray.serve.schema.DeploymentSchema).
DEFAULT_NUM_CPUS, DEFAULT_MAX_ONGOING_REQUESTS = 1.0, 5
HTTP_PORT, GRPC_PORT = 8000, 9000


@dataclass(frozen=True)
class Candidate:
    """All that is tuned. `max_calls` and `max_images` are None where the config has `gathering: null`."""

    engine: str
    precision: str
    max_batch_size: int
    replicas: int
    threads: int
    preprocessors: int
    preprocessor_threads: int
    ingresses: int
    max_calls: int | None
    max_images: int | None

    def __str__(self) -> str:
        gathering = "" if self.max_calls is None else f", {self.max_calls} calls of {self.max_images}"
        return (
            f"{self.engine} {self.precision}, batches of {self.max_batch_size}, {self.replicas} x {self.threads} "
            f"threads, preprocessing {self.preprocessors} x {self.preprocessor_threads}, "
            f"{self.ingresses} Ingress{gathering}"
        )

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        return cls(**record)

    def record(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Subject:
    """One model of a config."""

    config: Config
    model: str

    @property
    def settings(self) -> Settings:
        return Settings.model_validate(self._application["args"])

    @property
    def model_settings(self) -> ModelSettings:
        return self.settings.models[self.place]

    @property
    def place(self) -> int:
        """Of the model in `args.models`."""
        return next(n for n, each in enumerate(self._application["args"]["models"]) if each["name"] == self.model)

    @property
    def _application(self) -> Config:
        application: Config = self.config["applications"][0]
        return application

    def deployment(self, name: str) -> Config:
        """The entry of a deployment; empty if there is none."""
        return next((each for each in self._application.get("deployments") or [] if each["name"] == name), {})

    def num_cpus(self, name: str) -> float:
        """Cores that Ray counts for a replica."""
        return float((self.deployment(name).get("ray_actor_options") or {}).get("num_cpus", DEFAULT_NUM_CPUS))

    def is_autoscaled(self, name: str) -> bool:
        deployment = self.deployment(name)
        return bool(deployment.get("autoscaling_config")) or deployment.get("num_replicas") == "auto"

    def replicas(self, name: str) -> int:
        """As many as it has; of what is autoscaled the least that serve."""
        deployment = self.deployment(name)
        if self.is_autoscaled(name):
            return max(1, int((deployment.get("autoscaling_config") or {}).get("min_replicas", 1)))
        return int(deployment.get("num_replicas") or 1)

    @property
    def as_it_is(self) -> Candidate:
        settings, model = self.settings, self.model_settings
        gathering = settings.gathering
        live = (self.deployment(self.model).get("user_config") or {}).get("max_batch_size")
        return Candidate(
            engine=model.engine,
            precision=model.precision,
            max_batch_size=live or model.max_batch_size,
            replicas=self.replicas(self.model),
            threads=with_threads(model, self.num_cpus(self.model)).threads or 1,
            preprocessors=self.replicas(PREPROCESSOR),
            preprocessor_threads=settings.preprocessor_threads,
            ingresses=self.replicas(INGRESS),
            max_calls=None if gathering is None else gathering.max_calls,
            max_images=None if gathering is None else gathering.max_images,
        )


@dataclass(frozen=True)
class Edit:
    """`knob`: the field of Candidate that asks for it."""

    path: Path
    value: int | str
    knob: str


def edits(subject: Subject, candidate: Candidate, came_to: Candidate | None = None) -> list[Edit]:
    """What must change in the config for the candidate, and nothing else.

    `came_to`: what the config as it is came to where it leaves the engine open; that needs no change. Any other
    candidate states its engine, since `auto` may come to another one with other threads.
    """
    if candidate == came_to:
        return []
    found, now = [], subject.as_it_is
    wanted = candidate.record()
    for knob, path in _paths(subject).items():
        if wanted[knob] is not None and wanted[knob] != now.record()[knob]:
            found.append(Edit(path, wanted[knob], knob))
    found += _that_follow(subject, candidate)
    return [each for each in found if _at(subject.config, each.path) != each.value]


def applied(config: Config, changes: list[Edit]) -> Config:
    """A copy of the config with the changes in it."""
    made = copy.deepcopy(config)
    for change in changes:
        parent: Any = made
        for key, below in zip(change.path, change.path[1:], strict=False):
            if isinstance(key, str) and parent.get(key) is None:
                parent[key] = [] if isinstance(below, int) else {}
            elif isinstance(parent, list) and key == len(parent):
                parent.append({})
            parent = parent[key]
        parent[change.path[-1]] = change.value
    return made


def as_measured(subject: Subject, config: Config) -> Config:
    """The config as it is served to be measured: for this machine alone and without API keys, with a fixed number of
    replicas, and with no cache of answers, which would answer for the model. An engine that is stated serves, or none.
    """
    made = copy.deepcopy(config)
    made["http_options"] = {"port": HTTP_PORT, **(made.get("http_options") or {}), "host": "127.0.0.1"}
    made["grpc_options"] = {"port": GRPC_PORT, **(made.get("grpc_options") or {})}
    application = made["applications"][0]
    application["args"].pop("access", None)
    application["args"].pop("administration", None)
    model = application["args"]["models"][subject.place]
    if "auto" not in (model.get("engine", "auto"), model.get("precision")) and config != subject.config:
        model["on_refusal"] = "fail"
    deployments = application["deployments"] = application.get("deployments") or []
    names = [deployment["name"] for deployment in deployments]
    for name in (INGRESS, PREPROCESSOR, *(model.name for model in subject.settings.models)):
        if name not in names:
            deployments.append({"name": name})
    for deployment in deployments:
        name = deployment["name"]
        if subject.is_autoscaled(name):
            deployment.pop("autoscaling_config", None)
            deployment["num_replicas"] = subject.replicas(name)
        if (deployment.get("user_config") or {}).get("cache") is not None:
            deployment["user_config"] = {key: each for key, each in deployment["user_config"].items() if key != "cache"}
    return made


def _paths(subject: Subject) -> dict[str, Path]:
    """Where each field of Candidate stands in the config. What is autoscaled has no number of replicas to set."""
    application: Path = ("applications", 0)
    args: Path = (*application, "args")
    model: Path = (*args, "models", subject.place)
    paths: dict[str, Path] = {
        "engine": (*model, "engine"),
        "precision": (*model, "precision"),
        "max_batch_size": (*model, "max_batch_size"),
        "threads": (*model, "threads"),
        "preprocessor_threads": (*args, "preprocessor_threads"),
        "max_calls": (*args, "gathering", "max_calls"),
        "max_images": (*args, "gathering", "max_images"),
    }
    for knob, name in (("replicas", subject.model), ("preprocessors", PREPROCESSOR), ("ingresses", INGRESS)):
        if subject.deployment(name) and not subject.is_autoscaled(name):
            paths[knob] = (*application, "deployments", _place_of(subject, name), "num_replicas")
    return paths


def _at(config: Config, path: Path) -> object:
    """What stands there; None where nothing does."""
    found: Any = config
    for key in path:
        found = found.get(key) if isinstance(found, dict) else found[int(key)] if isinstance(found, list) else None
    return found


def _place_of(subject: Subject, name: str) -> int:
    deployments = subject.config["applications"][0]["deployments"]
    return next(number for number, each in enumerate(deployments) if each["name"] == name)


def _that_follow(subject: Subject, candidate: Candidate) -> list[Edit]:
    """What else must change with the batch size: the live one where it is stated, and the room for two full batches."""
    deployment, found = subject.deployment(subject.model), []
    if not deployment:
        return []
    path: Path = ("applications", 0, "deployments", _place_of(subject, subject.model))
    size = candidate.max_batch_size
    live = (deployment.get("user_config") or {}).get("max_batch_size")
    if live is not None and live != size:
        found.append(Edit((*path, "user_config", "max_batch_size"), size, "max_batch_size"))
    if deployment.get("max_ongoing_requests", DEFAULT_MAX_ONGOING_REQUESTS) < 2 * size:
        found.append(Edit((*path, "max_ongoing_requests"), 2 * size, "max_batch_size"))
    return found
