"""What a key lets its holder do, how often, and for how long."""

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from deployments import access as access_module
from deployments.access import MAX_KEY_CHARACTERS, AccessControl
from deployments.errors import ApertureError, Forbidden, QuotaExceeded, Unauthenticated
from deployments.settings import Access
from deployments.settings.keys import SCOPES, Key, Rate, Scope, digest_of

# A test waits as long only if it fails.
TIMEOUT_S = 20.0


class Clock:
    """Moves when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def line_of(key: str, *scopes: Scope, rate: Rate | None = None) -> str:
    return Key("app", digest_of(key), frozenset(scopes or ("classify",)), rate).line() + "\n"


def control(tmp_path: Path, lines: str, clock: Clock | None = None) -> AccessControl:
    path = tmp_path / "keys"
    path.write_text(lines)
    return AccessControl(Access(keys_file=str(path)), clock or Clock(), poll_s=0.01)


# Who


@pytest.mark.parametrize(
    "presented",
    [[], [""], ["wrong"], ["first "], ["First"], ["first", "first"], ["first", "second"], ["x" * 10**6]],
    ids=["nothing", "empty", "wrong", "a space more", "another case", "twice", "two keys", "a megabyte"],
)
def test_whoever_has_no_valid_key_is_refused(tmp_path: Path, presented: list[str]) -> None:
    access = control(tmp_path, line_of("first", *SCOPES))
    for scope in SCOPES:
        with pytest.raises(Unauthenticated):
            access.admit(presented, scope)


def test_a_hash_is_no_key(tmp_path: Path) -> None:
    access = control(tmp_path, line_of("first"))
    for text in (digest_of("first").hex(), f"sha256:{digest_of('first').hex()}"):
        with pytest.raises(Unauthenticated):
            access.admit([text], "classify")


def test_a_presented_key_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(Unauthenticated) as caught:
        control(tmp_path, line_of("first")).admit(["something secret"], "classify")
    assert "something" not in str(caught.value)


def test_a_key_is_compared_with_all_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    real = hmac.compare_digest

    def compare(presented: bytes, kept: bytes) -> bool:
        compared.append(kept)
        return real(presented, kept)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    access = control(tmp_path, line_of("first") + line_of("second") + line_of("third"))
    access.admit(["first"], "classify")
    assert compared == [digest_of(key) for key in ("first", "second", "third")]


def test_a_key_longer_than_any_is_not_even_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access = control(tmp_path, line_of("x" * MAX_KEY_CHARACTERS) + line_of("x" * (MAX_KEY_CHARACTERS + 1)))
    access.admit(["x" * MAX_KEY_CHARACTERS], "classify")
    with pytest.raises(Unauthenticated):
        access.admit(["x" * (MAX_KEY_CHARACTERS + 1)], "classify")


def test_without_keys_everybody_may_and_over_grpc_this_machine_alone() -> None:
    for access, others in ((AccessControl(Access()), False), (AccessControl(Access(open_to_all=True)), True)):
        for scope in SCOPES:
            access.admit([], scope)
        access.admit_peer("127.0.0.1")
        assert admits(lambda access=access: access.admit_peer("192.0.2.1")) is others  # type: ignore[misc]


def admits(call: Callable[[], object]) -> bool:
    try:
        call()
    except ApertureError:
        return False
    return True


# What


@pytest.mark.parametrize("held", SCOPES)
def test_each_scope_lets_do_its_own_and_read(tmp_path: Path, held: Scope) -> None:
    access = control(tmp_path, line_of("first", held))
    allowed = {scope for scope in SCOPES if admits(lambda scope=scope: access.admit(["first"], scope))}  # type: ignore[misc]
    assert allowed == {held, "read"}
    if held != "admin":
        with pytest.raises(Forbidden, match=f"the scope admin; yours has {held}"):
            access.admit(["first"], "admin")


# How often


def test_a_key_has_its_burst_and_then_its_rate(tmp_path: Path) -> None:
    clock = Clock()
    access = control(tmp_path, line_of("first", rate=Rate(2, 3)), clock)

    def granted() -> int:
        count = 0
        while admits(lambda: access.admit(["first"], "classify")):
            count += 1
        return count

    assert granted() == 3
    clock.now_s += 0.5
    assert granted() == 1
    clock.now_s += 1.0
    assert granted() == 2
    clock.now_s += 3600
    assert granted() == 3


def test_a_key_over_its_rate_is_told_when_to_come_again(tmp_path: Path) -> None:
    clock = Clock()
    access = control(tmp_path, line_of("first", rate=Rate(0.5, 1)), clock)
    access.admit(["first"], "classify")
    clock.now_s += 0.5
    with pytest.raises(QuotaExceeded) as caught:
        access.admit(["first"], "classify")
    assert caught.value.retry_after_s == pytest.approx(1.5)
    clock.now_s += 1.5
    access.admit(["first"], "classify")


def test_one_key_does_not_use_up_what_another_has(tmp_path: Path) -> None:
    access = control(tmp_path, line_of("first", rate=Rate(1, 1)) + line_of("second", rate=Rate(1, 1)))
    access.admit(["first"], "classify")
    with pytest.raises(QuotaExceeded):
        access.admit(["first"], "classify")
    access.admit(["second"], "classify")


def test_what_is_refused_costs_nothing_of_the_rate(tmp_path: Path) -> None:
    access = control(tmp_path, line_of("first", rate=Rate(1, 1)))
    for presented, scope in ((["wrong"], "classify"), (["first"], "admin")):
        with pytest.raises((Unauthenticated, Forbidden)):
            access.admit(presented, scope)  # type: ignore[arg-type]
    access.admit(["first"], "classify", requests=0)
    access.admit(["first"], "classify")


# For how long


def following(access: AccessControl, use: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        access.start()
        async with asyncio.timeout(TIMEOUT_S):
            await use()

    asyncio.run(run())


def replace(path: Path, content: bytes) -> None:
    """By another file of the name, as Kubernetes and editors do it: nobody sees half of it."""
    (path.parent / "next").write_bytes(content)
    (path.parent / "next").rename(path)


async def until(condition: Callable[[], bool]) -> None:
    # Of another thread and a file system, which set no event.
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


def test_keys_change_with_their_file_while_the_service_runs(tmp_path: Path) -> None:
    access = control(tmp_path, line_of("old"))

    def holds(key: str) -> bool:
        return admits(lambda: access.admit([key], "classify"))

    async def rotate() -> None:
        # Both for a while, then the new one alone.
        for lines in (line_of("old") + line_of("new"), line_of("new")):
            replace(tmp_path / "keys", lines.encode())
            await until(lambda lines=lines: holds("old") is (line_of("old") in lines) and holds("new"))  # type: ignore[misc]

    following(access, rotate)
    assert not holds("old")


@pytest.mark.parametrize(
    "content", [b"", b"aperture_a-key-itself", b"\xff", None], ids=["empty", "key", "bytes", "gone"]
)
def test_a_broken_new_file_changes_nothing_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    access = control(tmp_path, line_of("old"))
    path, reads, read = tmp_path / "keys", [], access_module._text_of

    def counted(settings: Access) -> str:
        reads.append(settings)
        return read(settings)

    async def spoil() -> None:
        path.unlink() if content is None else replace(path, content)
        await until(lambda: "stay as they were" in caplog.text)
        seen = len(reads)
        await until(lambda: len(reads) > seen + 3)
        access.admit(["old"], "classify")
        replace(path, line_of("new").encode())
        await until(lambda: admits(lambda: access.admit(["new"], "classify")))

    monkeypatch.setattr(access_module, "_text_of", counted)
    with caplog.at_level(logging.INFO, logger="ray.serve"):
        following(access, spoil)
    assert caplog.text.count("stay as they were") == 1
    assert "aperture_" not in caplog.text
    assert digest_of("new").hex() not in caplog.text


def test_a_key_that_stays_keeps_what_it_has_used(tmp_path: Path) -> None:
    limited = line_of("old", rate=Rate(1, 1))
    access = control(tmp_path, limited)
    access.admit(["old"], "classify")

    async def add() -> None:
        replace(tmp_path / "keys", (limited + line_of("new")).encode())
        await until(lambda: admits(lambda: access.admit(["new"], "classify")))

    following(access, add)
    with pytest.raises(QuotaExceeded):
        access.admit(["old"], "classify")
