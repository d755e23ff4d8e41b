"""Versions of a model change while it is asked; `python -m benchmarks.versions` shows more, and what it costs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from benchmarks.versions.report import Row

# The first of these tests waits for all changes.
pytestmark = pytest.mark.timeout(400)


def test_no_request_is_lost_refused_or_answered_wrongly_whatever_changes(rows: "Mapping[str, Row]") -> None:
    assert {name: row.during.failed for name, row in rows.items()} == dict.fromkeys(rows, 0)
    assert all(row.during.answered > 0 for row in rows.values())


def test_a_version_is_loaded_beside_the_one_that_answers(rows: "Mapping[str, Row]") -> None:
    assert rows["load version 2"].problem == ""


def test_a_corrupt_version_is_refused_and_says_why(rows: "Mapping[str, Row]") -> None:
    assert rows["corrupt version 3"].problem == ""


def test_a_shadow_finds_the_difference_that_eager_torch_knows_of(rows: "Mapping[str, Row]") -> None:
    assert rows["shadow of 2 beside 1"].problem == ""


def test_the_old_version_is_unloaded(rows: "Mapping[str, Row]") -> None:
    assert rows["unload version 1"].problem == ""
