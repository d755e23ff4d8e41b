"""The Ingress does not start where it would serve whoever comes."""

from types import SimpleNamespace
from typing import Any

import pytest

from deployments import ingress
from deployments.ingress import Ingress
from deployments.settings import Settings
from tests.unit.sentences import sentence_of


def start(access: dict[str, Any]) -> None:
    settings = Settings.model_validate({"models": [{"name": "colours", "engine": "dummy"}], "access": access})
    # Of the class that Serve has wrapped, whose instances are not collected without a loop.
    wrapped: Any = Ingress.__mro__[1]
    wrapped.__init__(SimpleNamespace(), settings, None, {})


def test_a_replica_without_keys_refuses_to_start_where_others_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # That this is where the service listens is seen at a running one (tests/graph/test_access.py).
    monkeypatch.setattr(ingress, "_listens_on", lambda: "0.0.0.0")
    sentence = sentence_of(lambda: start({}))
    assert "http_options.host '0.0.0.0'" in sentence
    # Told so, it goes on, to the deployments that it does not have here.
    with pytest.raises((AttributeError, KeyError)):
        start({"open_to_all": True})


def test_a_replica_whose_keys_cannot_be_read_refuses_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingress, "_listens_on", lambda: "0.0.0.0")
    assert "cannot be read" in sentence_of(lambda: start({"keys_file": "absent/keys"}))
