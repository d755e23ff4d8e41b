"""Which version a request asks for, and which one answers it: what every protocol has in common.

    x-routing-key           in requests    where traffic is divided, the same key leads to the same version; without
                                           one, the request's id decides
    x-model-version         in answers     the version that answered
    x-preprocessing-spec    in answers     digest of the spec by which that version makes its pixels
    x-cache                 in answers     of a model with a cache: hit, joined or miss; of several images, the first of
                                           miss, joined and hit that holds for any

HTTP has them as headers, gRPC as metadata of the call and trailing metadata of its end.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Final

from deployments.errors import ApertureError, BadRequest
from deployments.messages import Answer, Cached, DataPlane, ModelInfo, routing_key
from deployments.records import COSTLIEST, current

ROUTING_KEY: Final = "x-routing-key"
MODEL_VERSION: Final = "x-model-version"
PREPROCESSING_SPEC: Final = "x-preprocessing-spec"
CACHE: Final = "x-cache"
# Ids of users and sessions, and hashes of them, are shorter; each key is hashed.
MAX_KEY_CHARACTERS: Final = 256

_answering: ContextVar[ModelInfo | None] = ContextVar("answering", default=None)
_cached: ContextVar[Cached | None] = ContextVar("cached", default=None)


def begin(keys: Sequence[str], request_id: str) -> None:
    """Of a request, in a context of its own. `keys`: the values of x-routing-key. Raises BadRequest."""
    _answering.set(None)
    _cached.set(None)
    routing_key.set(request_id)
    if len(keys) > 1:
        raise BadRequest(f"{ROUTING_KEY} may be there once, not {len(keys)} times.")
    if keys and len(keys[0]) > MAX_KEY_CHARACTERS:
        raise BadRequest(
            f"{ROUTING_KEY} may have at most {MAX_KEY_CHARACTERS} characters; the request's has {len(keys[0])}."
        )
    if keys and keys[0]:
        routing_key.set(keys[0])


def chosen(plane: DataPlane, model: str | None, version: str | None = None, label: str | None = None) -> ModelInfo:
    """What is to answer, by which the answer is named then. For once in a request: the next time it may be another.

    Raises as DataPlane.info_of.
    """
    info = plane.info_of(model, version, label)
    _answering.set(info)
    current().chose(info)
    return info


def described(plane: DataPlane, model: str, version: str | None = None, label: str | None = None) -> ModelInfo:
    """What metadata are of: as `chosen`, but the default version of a model whose traffic is divided."""
    default = plane.ready_models().get(model)
    if version is not None or label is not None or default is None:
        return chosen(plane, model, version, label)
    _answering.set(default)
    current().chose(default)
    return default


def answered(outcomes: Sequence[Answer | ApertureError]) -> None:
    """Notes where the answers of a request came from."""
    found = {outcome.cached for outcome in outcomes if isinstance(outcome, Answer)}
    _cached.set(next((cached for cached in COSTLIEST if cached in found), None))


def names_of_answer() -> dict[str, str]:
    """The headers by which an answer is named; none before a version was chosen."""
    info = _answering.get()
    if info is None:
        return {}
    cached = _cached.get()
    names = {MODEL_VERSION: str(info.version), PREPROCESSING_SPEC: info.preprocessing.digest}
    return names if cached is None else {**names, CACHE: cached}
