"""What is built once: by whom, how often, and what is left when something goes wrong."""

import errno
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.engines.cache import UNUSED_S, Cache
from tests.unit.sentences import sentence_of

DIGEST = "0123456789abcdef" * 4
# Another process on the same cache: says when its build has begun, and ends it when it is told to.
BUILDER = """
import logging, sys
from deployments.engines.cache import Cache

def build(directory):
    (directory / "part").write_text("of another process")
    print("building", flush=True)
    sys.stdin.readline()

logging.basicConfig(level=logging.INFO, format="%(message)s")
Cache("shapes", sys.argv[1]).directory("export", build)
print("done", flush=True)
"""
ALONE = """
import logging, sys
from deployments.engines.cache import Cache

logging.basicConfig(level=logging.INFO)
with Cache("flowers", sys.argv[1]).alone():
    print("alone")
"""

pytestmark = pytest.mark.usefixtures("own_cache")


def cache(digest: str = DIGEST, family: str = "shapes") -> Cache:
    return Cache(family, digest)


def writes(content: str) -> Callable[[Path], None]:
    def build(directory: Path) -> None:
        (directory / "content").write_text(content)

    return build


def read(directory: Path) -> str:
    return (directory / "content").read_text()


def never(directory: Path) -> None:
    raise AssertionError("It is there already.")


def left_in(own_cache: Path) -> list[str]:
    """What the cache of DIGEST holds, its lock apart."""
    return sorted(path.name for path in next(own_cache.glob("shapes-*")).iterdir() if path.name != "lock")


def other_process(script: str, digest: str = DIGEST) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", script, digest], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# Once


def test_what_was_built_is_found_at_the_next_start() -> None:
    first = cache().directory("export", writes("weights"))
    assert cache().directory("export", never) == first
    assert read(first) == "weights"


def test_another_name_or_another_digest_is_built_of_its_own() -> None:
    cache().directory("export", writes("fp32"))
    assert read(cache().directory("export-int8", writes("int8"))) == "int8"
    assert read(cache("f" * 64).directory("export", writes("other weights"))) == "other weights"


def test_building_one_thing_may_build_another() -> None:
    own = cache()

    def build(directory: Path) -> None:
        writes("measured " + read(own.directory("export", writes("export"))))(directory)

    assert read(own.directory("verdict", build)) == "measured export"


def test_two_processes_do_not_build_the_same_thing_twice() -> None:
    with other_process(BUILDER) as first:
        assert line_of(first) == "building"
        with other_process(BUILDER) as second:
            assert second.stderr is not None
            assert second.stderr.readline().startswith("Waiting for another process that holds ")
            first.communicate("\n")
            # It never says that it is building.
            assert line_of(second) == "done"
            second.communicate()
    assert (first.returncode, second.returncode) == (0, 0)


def test_one_process_at_a_time_is_alone_on_the_machine_whatever_it_loads() -> None:
    with cache().alone():
        other = other_process(ALONE, "f" * 64)
        assert other.stderr is not None
        assert "Waiting for another process" in other.stderr.readline()
        assert other.poll() is None
    assert other.communicate()[0] == "alone\n"


# When a build goes wrong


def test_a_build_that_fails_leaves_nothing(own_cache: Path) -> None:
    def build(directory: Path) -> None:
        writes("half")(directory)
        raise RuntimeError("the export fails")

    with pytest.raises(RuntimeError, match="the export fails"):
        cache().directory("export", build)
    assert left_in(own_cache) == []
    assert read(cache().directory("export", writes("whole"))) == "whole"


def test_a_build_that_is_killed_is_swept_away_by_the_next(own_cache: Path) -> None:
    with other_process(BUILDER) as killed:
        assert line_of(killed) == "building"
        killed.kill()
    assert len(left_in(own_cache)) == 1
    assert read(cache().directory("export", writes("whole"))) == "whole"
    assert left_in(own_cache) == ["export"]


def test_what_cannot_be_read_is_built_once_more(own_cache: Path) -> None:
    (cache().directory("export", writes("weights")) / "content").write_bytes(b"\xff")
    assert cache().read("export", writes("built again"), read) == "built again"
    assert left_in(own_cache) == ["export"]


def test_what_cannot_be_read_when_it_is_new_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        cache().read("export", lambda directory: None, read)


def test_discarding_inside_a_build_does_not_touch_the_build() -> None:
    own = cache()
    own.directory("export", writes("unreadable"))

    def build(directory: Path) -> None:
        own.discard("export")
        writes("measured " + read(own.directory("export", writes("anew"))))(directory)

    assert read(own.directory("verdict", build)) == "measured anew"


def test_a_full_disk_is_one_sentence_with_the_way_out(own_cache: Path) -> None:
    def build(directory: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sentence = sentence_of(lambda: cache().directory("export", build))
    for words in (str(own_cache), "No space left on device", "set APERTURE_CACHE"):
        assert words in sentence
    assert left_in(own_cache) == []


def test_a_cache_that_is_deleted_meanwhile_is_filled_again(own_cache: Path) -> None:
    own = cache()
    own.directory("export", writes("weights"))
    shutil.rmtree(own_cache)
    assert own.read("export", writes("again"), read) == "again"


def test_a_cache_that_cannot_be_written_is_replaced_by_one_of_the_process_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("APERTURE_CACHE", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING, logger="ray.serve"):
        directory = cache().directory("export", writes("weights"))
    assert read(directory) == "weights"
    assert tmp_path not in directory.parents
    assert "set APERTURE_CACHE to a directory that can" in caplog.text


def test_the_users_cache_is_the_place_where_none_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("APERTURE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache().directory("export", writes("weights")).is_relative_to(tmp_path / "aperture")


# What is forgotten


def age(own_cache: Path, pattern: str, age_s: float) -> None:
    for path in own_cache.glob(pattern):
        os.utime(path, (time.time() - age_s,) * 2)


def test_versions_that_no_start_has_used_for_a_month_go_when_a_new_one_is_built(own_cache: Path) -> None:
    for digest in ("a" * 64, "b" * 64):
        cache(digest).directory("export", writes("old"))
    cache("a" * 64, family="shapes-two").directory("export", writes("of another model"))
    age(own_cache, "*", UNUSED_S + 60)
    cache("b" * 64)  # A start that builds nothing.
    cache("c" * 64).directory("export", writes("new"))
    left = {path.name.partition("-")[2][:5] for path in own_cache.glob("shapes-*")}
    assert left == {"bbbbb", "ccccc", "two-a"}


def test_versions_of_the_last_month_stay(own_cache: Path) -> None:
    cache("a" * 64).directory("export", writes("old"))
    age(own_cache, "*", UNUSED_S - 60)
    cache("c" * 64).directory("export", writes("new"))
    assert cache("a" * 64).holds("export")
