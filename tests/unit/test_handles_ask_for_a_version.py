"""The methods for Python handles of the real Ingress, in front of bytes: which version they ask for."""

import asyncio
import functools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from deployments import ingress
from deployments.errors import ApertureError, BadRequest, ModelNotReady, UnknownModel
from deployments.ingress import Ingress
from tests.unit.versioned import keys, plane, two_versions


def handle(method: str, images: object, **arguments: Any) -> dict[str, Any]:
    replica = SimpleNamespace(plane=plane())
    replica._classify = functools.partial(Ingress._classify, cast("Any", replica))
    answer: dict[str, Any] = asyncio.run(getattr(Ingress, method)(replica, images, **arguments))
    return answer


both = pytest.mark.parametrize(("method", "images"), [("predict", b"photo"), ("predict_many", [b"photo", b"other"])])


@both
@pytest.mark.parametrize(
    ("arguments", "version"), [({"version": 1}, 1), ({"version": "2"}, 2), ({"label": "stable"}, 1)], ids=str
)
def test_a_handle_asks_for_a_version_by_its_number_or_its_label(
    method: str, images: object, arguments: dict[str, Any], version: int
) -> None:
    assert handle(method, images, **arguments)["version"] == version


@both
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"version": 7}, UnknownModel),
        ({"version": 3}, UnknownModel),
        ({"version": True}, UnknownModel),
        ({"label": "beta"}, UnknownModel),
        ({"version": 4}, ModelNotReady),
        ({"version": 1, "label": "stable"}, BadRequest),
    ],
    ids=str,
)
def test_a_handle_is_refused_as_every_client_is(
    method: str, images: object, arguments: dict[str, Any], error: type[ApertureError]
) -> None:
    with pytest.raises(error):
        handle(method, images, **arguments)


@both
def test_without_a_version_the_id_of_the_call_decides(
    method: str, images: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: Sequence[tuple[int, int]] = [_found(method, images, key, monkeypatch) for key in keys(40)]
    assert all(version == expected for version, expected in found)
    assert {version for version, _ in found} == {1, 2}


def _found(method: str, images: object, key: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    monkeypatch.setattr(ingress, "_request_id", lambda: key)
    return handle(method, images)["version"], two_versions().choose(None, None, key).version
