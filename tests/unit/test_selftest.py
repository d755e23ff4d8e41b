"""The selftest says that a good service is good, and of each promise that a bad one breaks, which one it is."""

import asyncio
import io
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from benchmarks.image_files import encode
from benchmarks.selftest.__main__ import main
from benchmarks.selftest.checks import Check
from benchmarks.selftest.deployment import Deployment
from benchmarks.selftest.report import Table
from benchmarks.selftest.runner import CHECKS, Row, run
from deployments.access import AccessControl
from deployments.settings import Access
from deployments.settings.keys import Key, digest_of, new_key
from tests.awaiting import free_port
from tests.unit.broken_services import (
    Exploding,
    Forgetful,
    Insatiable,
    Middleware,
    MixedUpLabels,
    OutOfOrder,
    Patient,
    Unlimited,
    chatty,
    hanging,
    kept,
    offended,
    one_by_one,
    turning_away_without_a_word,
    with_a_back_door,
    with_header,
)
from tests.unit.small_service import SeeingPlane, application, listening, listening_for_calls

# Hostile files make the decoder warn, as in the service.
pytestmark = pytest.mark.filterwarnings("ignore")

KEY = new_key()


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lasts seconds in front of a real service takes half a second here."""
    monkeypatch.setattr("benchmarks.selftest.hostile.SLOW_S", 0.5)
    monkeypatch.setattr("benchmarks.selftest.overload.BURST_S", 0.5)
    monkeypatch.setattr("benchmarks.selftest.overload.CALLERS", 16)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> AccessControl:
    monkeypatch.setenv("LINES", Key("test", digest_of(KEY)).line())
    monkeypatch.setenv("KEY", KEY)
    return AccessControl(Access(keys_env="LINES"))


@pytest.fixture(scope="module")
def good() -> Iterator[str]:
    with listening(application(SeeingPlane())) as url:
        yield url


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for label, colour in (("red", (200, 0, 0)), ("green", (0, 200, 0)), ("blue", (0, 0, 200))):
        (tmp_path / f"{label}.png").write_bytes(encode(Image.new("RGB", (32, 32), colour), "PNG"))
    return tmp_path


def results_of(printed: str) -> dict[str, dict[str, Any]]:
    """By claim."""
    document = json.loads(printed.splitlines()[-1])
    return {claim: row for rows in document["results"].values() for claim, row in rows.items()}


# A good service


def test_a_service_that_keeps_its_promises_passes_with_its_key(
    keys: AccessControl, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with listening(application(SeeingPlane(), keys)) as url, listening_for_calls(SeeingPlane(), keys) as address:
        status = main(["--url", url, "--grpc", address, "--api-key-env", "KEY", "--expect", str(pictures)])
    printed = capsys.readouterr().out
    assert status == 0, printed
    results = results_of(printed)
    assert set(results) == {check.claim for check in CHECKS}
    assert {row["state"] for row in results.values()} == {"held"}
    assert results["expected pictures have their labels"]["came"] == "3 of 3"
    assert results["without a key nobody is answered over HTTP"]["came"] == "401 unauthenticated"
    assert KEY not in printed


def test_classes_may_share_a_label(capsys: pytest.CaptureFixture[str]) -> None:
    plane = SeeingPlane(labels=("crane", "heron", "crane"))
    with listening(application(plane)) as url, listening_for_calls(plane) as address:
        status = main(["--url", url, "--grpc", address, "--only", "protocols", "answers"])
    assert status == 0, capsys.readouterr().out


def test_without_a_terminal_there_are_no_colours_and_with_one_there_are(good: str) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    row = Row(CHECKS[0], "held", "200", 1.0)
    for out, is_coloured in ((io.StringIO(), False), (Terminal(), True)):
        Table(out).add(row)
        assert ("\x1b[" in out.getvalue()) is is_coloured
        assert CHECKS[0].claim in out.getvalue()


def test_json_alone_is_one_line(good: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", good, "--only", "answers", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["counts"] == {"held": 3, "skipped": 1}


def test_nobody_who_speaks_grpc_is_a_failure(good: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", good, "--grpc", f"127.0.0.1:{free_port()}", "--only", "OIP gRPC, typed"]) == 1
    assert "UNAVAILABLE" in results_of(capsys.readouterr().out)["OIP gRPC, typed: answers as the others"]["came"]


# Bad services


BROKEN: dict[str, tuple[type[SeeingPlane], Middleware, str]] = {
    "labels mixed up": (MixedUpLabels, kept, "expected pictures have their labels"),
    "another answer each time": (Forgetful, kept, "a repeated question has the same answer"),
    "answers of others": (OutOfOrder, kept, "predict, multipart: answers as the others"),
    "500 for a bomb": (Exploding, kept, "a PNG that declares as many pixels as it can is refused"),
    "no deadlines": (Patient, kept, "a tiny timeout is answered at once"),
    "no limit of images": (Unlimited, kept, "one image more than the config has is refused"),
    "503 and no more": (SeeingPlane, turning_away_without_a_word, "a burst is answered or refused honestly"),
    "stages that do not sum": (
        SeeingPlane,
        with_header("server-timing", "queue;dur=1.00, inference;dur=2.00, total;dur=30.00"),
        "server timing says where the time went",
    ),
    "no Server-Timing": (SeeingPlane, with_header("server-timing", None), "server timing says where the time went"),
    "another's version": (SeeingPlane, with_header("x-model-version", "7"), "every answer names its model and version"),
    "ids of its own": (SeeingPlane, with_header("x-request-id", "1"), "a request keeps its id"),
    "types to guess": (SeeingPlane, with_header("x-content-type-options", None), "no answer is guessed at"),
    "a page without a policy": (
        SeeingPlane,
        with_header("content-security-policy", None),
        "pages run nothing of others",
    ),
    "a grudge": (SeeingPlane, offended, "who leaves in the middle of the body leaves nothing"),
    "a traceback": (SeeingPlane, chatty, "a PDF is refused"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_service_that_breaks_a_promise_fails_and_the_promise_is_named(
    fault: str, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plane, around, claim = BROKEN[fault]
    with listening(around(application(plane()))) as url:
        status = main(["--url", url, "--expect", str(pictures), "--only", claim])
    printed = capsys.readouterr().out
    assert status == 1, printed
    assert results_of(printed)[claim]["state"] == "failed"
    assert f": {claim}\n  expected " in printed


def test_a_back_door_is_found(keys: AccessControl, capsys: pytest.CaptureFixture[str]) -> None:
    with listening(with_a_back_door(application(SeeingPlane(), keys), KEY)) as url:
        status = main(["--url", url, "--api-key-env", "KEY", "--only", "keys"])
    failed = {claim for claim, row in results_of(capsys.readouterr().out).items() if row["state"] == "failed"}
    assert (status, failed) == (
        1,
        {"without a key nobody is answered over HTTP", "with a wrong key nobody is answered over HTTP"},
    )


@pytest.mark.parametrize(
    ("plane", "around", "claim"),
    [
        (Insatiable, kept, "a body announced as too large is refused"),
        (SeeingPlane, one_by_one, "slow senders hold up nobody"),
    ],
)
def test_a_service_that_waits_for_ever_fails(
    plane: type[SeeingPlane],
    around: Middleware,
    claim: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("benchmarks.selftest.runner.CHECK_S", 1.0)
    with listening(around(application(plane()))) as url:
        assert main(["--url", url, "--only", claim]) == 1
    assert results_of(capsys.readouterr().out)[claim]["came"] == "no end within 1 s"


@pytest.mark.parametrize(
    ("plane", "claim"),
    [
        (OutOfOrder, "OIP gRPC, raw: answers as the others"),
        (Forgetful, "TF Serving gRPC, classify: answers as the others"),
        (Patient, "a tiny timeout in the metadata of a call holds"),
    ],
)
def test_a_service_that_breaks_a_promise_over_grpc_fails(
    plane: type[SeeingPlane], claim: str, good: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with listening_for_calls(plane()) as address:
        assert main(["--url", good, "--grpc", address, "--only", claim]) == 1
    assert results_of(capsys.readouterr().out)[claim]["state"] == "failed"


def test_a_back_door_for_calls_is_found(keys: AccessControl, capsys: pytest.CaptureFixture[str]) -> None:
    with listening(application(SeeingPlane(), keys)) as url, listening_for_calls(SeeingPlane()) as address:
        assert main(["--url", url, "--grpc", address, "--api-key-env", "KEY", "--only", "keys"]) == 1
    results = results_of(capsys.readouterr().out)
    assert results["without a key nobody is answered over HTTP"]["state"] == "held"
    assert results["without a key nobody is answered over gRPC"]["came"] == "an answer"


def test_a_service_that_hangs_ends_with_the_budget(capsys: pytest.CaptureFixture[str]) -> None:
    with listening(hanging(application(SeeingPlane()))) as url:
        status = main(["--url", url, "--budget-s", "2", "--only", "protocols"])
    results = results_of(capsys.readouterr().out)
    assert status == 1
    assert results["predict, raw: answers as the others"]["state"] == "failed"
    assert "no end within" in results["predict, raw: answers as the others"]["came"]
    assert results["TF Serving gRPC, classify: answers as the others"]["state"] == "not run"
    assert sum(row["ms"] for row in results.values()) < 10_000


def test_expectations_may_be_a_file_that_names_the_pictures(
    good: str, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "expected.json").write_text('{"red.png": "red", "green.png": "blue"}')
    assert main(["--url", good, "--expect", str(pictures / "expected.json"), "--only", "expected"]) == 1
    (row,) = results_of(capsys.readouterr().out).values()
    assert row["came"] == "1 of 2 wrong: green.png: green in place of blue"


def test_what_a_service_says_cannot_move_the_cursor() -> None:
    async def find(deployment: Deployment) -> str:
        return "200 \x1b[2J\r\n\tdone"

    async def run_one() -> Sequence[Row]:
        check = Check("topic", "claim", "expected", find)
        return await run([check], cast("Deployment", None), time.monotonic() + 20, lambda row: None)

    (row,) = asyncio.run(run_one())
    assert row.came == "200 ?[2J done"
