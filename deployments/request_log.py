"""The request log: a file of JSON lines beside Serve's own log of the replica, one line to a request.

Not in Serve's log, whose lines are text unless it is configured otherwise, are written in blocks of 1000 and stand
between others: this file is nothing but lines of JSON. It is named after the replica's log, with `requests_` in place
of `replica_`, and is rotated as that is (RAY_ROTATION_MAX_BYTES and RAY_ROTATION_BACKUP_COUNT). A thread writes it, so
that no request waits for a disk.
"""

import atexit
import logging
import threading
from collections.abc import Sequence
from logging.handlers import MemoryHandler, RotatingFileHandler
from pathlib import Path
from typing import Any, Final

import orjson

from deployments.metrics import REQUEST_LOG_LOST

logger = logging.getLogger("ray.serve")

Line = dict[str, Any]

# Lines that come so soon after each other are written together.
GATHER_S: Final = 0.1
# Some seconds of them, 20 MB. A disk that takes none for longer costs lines, which are counted, and no more memory.
MAX_WAITING_LINES: Final = 10_000
# How long the end of a process waits for its disk.
CLOSE_S: Final = 1.0


class RequestLog:
    def __init__(self, path: Path, max_bytes: int, backups: int) -> None:
        """`max_bytes` of the file before it is renamed to `path`.1, and so on up to so many `backups`."""
        self.path = path
        self._file = _File(path, maxBytes=max_bytes, backupCount=backups, delay=True, encoding="utf-8")
        self._waiting: list[Line] = []
        self._is_closed = self._is_failing = False
        self._changed = threading.Condition()
        self._writer = threading.Thread(target=self._write_all, name="request-log", daemon=True)
        self._writer.start()
        atexit.register(self.close)

    def write(self, line: Line) -> None:
        """From any thread, at once."""
        with self._changed:
            if self._is_closed or len(self._waiting) >= MAX_WAITING_LINES:
                REQUEST_LOG_LOST.add(1)
                return
            self._waiting.append(line)
            if len(self._waiting) == 1:
                self._changed.notify()

    def close(self) -> None:
        """Returns once all lines are written, or a disk has taken none for CLOSE_S."""
        atexit.unregister(self.close)
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._writer.join(CLOSE_S)

    def _write_all(self) -> None:
        while lines := self._next():
            try:
                self._file.emit(_record_of(lines))
                self._is_failing = False
            except Exception as err:  # OSError, and whatever a line may have that is no JSON.
                REQUEST_LOG_LOST.add(len(lines))
                if not self._is_failing:
                    logger.error("The request log cannot be written: %r", err)
                self._is_failing = True
        self._file.close()

    def _next(self) -> list[Line]:
        """Waits for lines; none once the log is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            self._changed.wait_for(lambda: self._is_closed, GATHER_S)
            lines, self._waiting = self._waiting, []
        return lines


class _File(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        # By default it is printed, each time anew.
        raise


def beside_the_log_of_serve() -> RequestLog | None:
    """That of this replica; None outside of one, where there is no such log."""
    for handler in logger.handlers:
        file = handler.target if isinstance(handler, MemoryHandler) else handler
        if isinstance(file, RotatingFileHandler):
            path = Path(file.baseFilename)
            name = f"requests_{path.name.removeprefix('replica_')}"
            return RequestLog(path.with_name(name), file.maxBytes, file.backupCount)
    return None


def _record_of(lines: Sequence[Line]) -> logging.LogRecord:
    text = b"\n".join(orjson.dumps(line, option=orjson.OPT_UTC_Z) for line in lines)
    return logging.makeLogRecord({"msg": text.decode()})
