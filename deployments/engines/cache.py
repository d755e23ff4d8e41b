"""A directory of things that take long to build: each is built once on a machine, and found again by its name.

It knows no model and no library. What it holds can be deleted at any time, and is then built again.
"""

import atexit
import errno
import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

from deployments.errors import ConfigError

logger = logging.getLogger("ray.serve")

Content = TypeVar("Content")

UNFINISHED: Final = ".building-"
DIGEST_DIGITS: Final = 24
# A version that no start has used for so long is hardly rolled back to, and if it is, it is built again.
UNUSED_S: Final = 30 * 24 * 3600
# What the operator can mend; whatever else goes wrong while something is built is the builder's to explain.
CANNOT_WRITE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOLCK}


class Cache:
    """What was built from one content, known by its `digest`; `family` is whose content it is a version of.

    To be used from one thread. Its methods raise ConfigError if the directory cannot be written.
    """

    def __init__(self, family: str, digest: str) -> None:
        self._path = cache_root() / f"{family}-{digest[:DIGEST_DIGITS]}"
        self._holds_lock = False
        with _in_one_sentence(self._path):
            self._path.mkdir(parents=True, exist_ok=True)
            os.utime(self._path)  # Used today; see _forget_unused.

    def holds(self, name: str) -> bool:
        return (self._path / name).is_dir()

    def directory(self, name: str, build: Callable[[Path], None]) -> Path:
        """The directory `name`, which `build` writes into an empty one if it is not there yet.

        A build that is interrupted leaves nothing behind, and two processes do not build the same thing twice.
        """
        found = self._path / name
        if found.is_dir():
            return found
        with self.lock(), _in_one_sentence(self._path):
            if not found.is_dir():
                self._build(found, build)
        return found

    def read(self, name: str, build: Callable[[Path], None], read: Callable[[Path], Content]) -> Content:
        """What `read` makes of the directory `name`. If it cannot be read, it is built once more."""
        directory = self.directory(name, build)
        try:
            return read(directory)
        except Exception:
            logger.warning("%s cannot be read and is built again", directory, exc_info=True)
        self.discard(name)
        return read(self.directory(name, build))

    def discard(self, name: str) -> None:
        """Forgets what turned out to be unreadable."""
        with self.lock(), _in_one_sentence(self._path):
            if self.holds(name):
                # Out of sight in one step, so that nobody finds the half of it that is left.
                aside = self._unfinished()
                (self._path / name).rename(aside / name)
                shutil.rmtree(aside, ignore_errors=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held by one process on this machine at a time, for as long as something of this content is built.

        Building one thing may need another: what holds the lock may take it again.
        """
        if self._holds_lock:
            yield
            return
        with _in_one_sentence(self._path):
            self._path.mkdir(parents=True, exist_ok=True)
        with exclusive(self._path / "lock"):
            self._sweep()
            self._holds_lock = True
            try:
                yield
            finally:
                self._holds_lock = False

    def alone(self) -> AbstractContextManager[None]:
        """Held by one process on this machine at a time, whatever content it is for. To be taken after `lock`."""
        return exclusive(self._path.parent / "alone")

    def _build(self, target: Path, build: Callable[[Path], None]) -> None:
        self._forget_unused()
        building = self._unfinished()
        try:
            build(building)
            building.replace(target)
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def _unfinished(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._path, prefix=UNFINISHED))

    def _sweep(self) -> None:
        """Removes what a process that was killed had begun: whoever holds the lock is alone."""
        for left in self._path.glob(f"{UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)

    def _forget_unused(self) -> None:
        for other in self._path.parent.glob(f"{self._path.name[:-DIGEST_DIGITS]}{'[0-9a-f]' * DIGEST_DIGITS}"):
            with suppress(FileNotFoundError):  # Another process removes it, too.
                if other != self._path and time.time() - other.stat().st_mtime > UNUSED_S:
                    logger.info("Removing %s, which no start has used for a month.", other)
                    shutil.rmtree(other, ignore_errors=True)


def cache_root() -> Path:
    """APERTURE_CACHE, or aperture/ in the user's cache (XDG Base Directory Specification 0.8).

    A place of this process's own if that cannot be written: everything is then built anew at each start.
    """
    try:
        xdg = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        root = Path(os.environ.get("APERTURE_CACHE") or Path(xdg) / "aperture")
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(root, os.W_OK | os.X_OK):
            return root
    except (OSError, RuntimeError):  # RuntimeError: there is no home directory.
        pass
    logger.warning(
        "The cache of exported models cannot be written, so that every start builds them anew; set APERTURE_CACHE to a "
        "directory that can."
    )
    own = Path(tempfile.mkdtemp(prefix="aperture-"))
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return own


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Held by one process on this machine at a time, which the file `path` stands for (flock(2))."""
    with _in_one_sentence(path.parent):
        file = path.open("w")
    with file:
        with _in_one_sentence(path.parent):
            _await_lock(file.fileno(), path)
        try:
            yield
        finally:
            # Closing is not enough: a process that was forked meanwhile has the file open, too.
            fcntl.flock(file, fcntl.LOCK_UN)


def _await_lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.info("Waiting for another process that holds %s.", path)
        fcntl.flock(descriptor, fcntl.LOCK_EX)


@contextmanager
def _in_one_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        if err.errno not in CANNOT_WRITE:
            raise
        raise ConfigError(
            f"The cache of exported models in {str(path)!r} cannot be written ({err.strerror}); make room there, or "
            f"set APERTURE_CACHE to another directory."
        ) from err
