"""The request log: whole lines of JSON, whatever is in them; rotated; and a disk that fails costs lines and no more."""

import json
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from logging.handlers import MemoryHandler, RotatingFileHandler
from pathlib import Path
from typing import Any

import pytest

from deployments import request_log
from deployments.metrics import REQUEST_LOG_LOST
from deployments.request_log import RequestLog, beside_the_log_of_serve
from tests.awaiting import await_condition

MANY_BYTES = 10**9
SOON_S = 20.0


def lost() -> float:
    return sum(sample.value for sample in REQUEST_LOG_LOST.samples())


def lines_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[RequestLog]:
    log = RequestLog(tmp_path / "requests.log", MANY_BYTES, backups=1)
    yield log
    log.close()


def test_lines_come_in_their_order_and_without_being_asked_for(log: RequestLog) -> None:
    for number in range(100):
        log.write({"number": number, "ts": datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)})
    await_condition(lambda: log.path.exists() and len(lines_in(log.path)) == 100, SOON_S, "the lines are written")
    lines = lines_in(log.path)
    assert [line["number"] for line in lines] == list(range(100))
    assert lines[0]["ts"] == "2026-01-02T03:04:05.678000Z"


@pytest.mark.parametrize("text", ['\n{"outcome": "ok"}\r\n', "\x1b[2J\x00\x85\u2028", '"}\\', "%s %d"])
def test_no_text_ends_a_line(log: RequestLog, text: str) -> None:
    log.write({"request_id": text})
    log.close()
    assert lines_in(log.path) == [{"request_id": text}]
    assert log.path.read_bytes().count(b"\n") == 1


def test_what_was_written_is_in_the_file_once_it_is_closed(log: RequestLog) -> None:
    for number in range(1000):
        log.write({"number": number})
    log.close()
    assert len(lines_in(log.path)) == 1000
    before = lost()
    log.write({"number": 1000})
    assert lost() == before + 1


def test_lines_of_many_threads_are_whole(log: RequestLog) -> None:
    def write() -> None:
        for number in range(500):
            log.write({"number": number, "filling": "x" * 300})

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert len(lines_in(log.path)) == 2000


def test_a_file_that_is_full_is_put_aside_and_only_so_many_are_kept(tmp_path: Path) -> None:
    for number in range(6):
        log = RequestLog(tmp_path / "requests.log", max_bytes=200, backups=2)
        for _ in range(10):
            log.write({"number": number})
        log.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["requests.log", "requests.log.1", "requests.log.2"]
    assert {line["number"] for line in lines_in(tmp_path / "requests.log")} <= {4, 5}
    for path in tmp_path.iterdir():
        assert path.stat().st_size < 1000


def test_a_disk_that_takes_nothing_costs_lines_and_is_complained_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = lost()
    log = RequestLog(tmp_path / "absent" / "requests.log", MANY_BYTES, backups=1)
    log.write({"number": 1})
    await_condition(lambda: lost() == before + 1, SOON_S, "the line is lost")
    log.write({"number": 2})
    await_condition(lambda: lost() == before + 2, SOON_S, "the other line is lost")
    assert caplog.text.count("The request log cannot be written") == 1
    (tmp_path / "absent").mkdir()
    log.write({"number": 3})
    log.close()
    assert lines_in(log.path) == [{"number": 3}]


def test_lines_that_wait_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_log, "MAX_WAITING_LINES", 5)
    before = lost()
    log = RequestLog(tmp_path / "requests.log", MANY_BYTES, backups=1)
    with log._changed:  # The writer waits for it.
        for number in range(8):
            log.write({"number": number})
    log.close()
    assert lost() == before + 3
    assert len(lines_in(log.path)) == 5


# Beside Serve's log


@pytest.fixture
def serves_logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("ray.serve")
    before = list(logger.handlers)
    logger.handlers.clear()
    yield logger
    logger.handlers[:] = before


def test_it_stands_beside_the_log_of_the_replica_and_is_rotated_like_it(
    serves_logger: logging.Logger, tmp_path: Path
) -> None:
    file = RotatingFileHandler(tmp_path / "replica_aperture_Ingress_abc.log", maxBytes=123, backupCount=4, delay=True)
    serves_logger.addHandler(logging.NullHandler())
    serves_logger.addHandler(MemoryHandler(1000, target=file))
    log = beside_the_log_of_serve()
    assert log is not None
    log.close()
    assert log.path == tmp_path / "requests_aperture_Ingress_abc.log"
    assert (log._file.maxBytes, log._file.backupCount) == (123, 4)


def test_outside_of_a_replica_there_is_none(serves_logger: logging.Logger) -> None:
    serves_logger.addHandler(logging.NullHandler())
    assert beside_the_log_of_serve() is None
