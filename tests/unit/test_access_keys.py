"""The file of API keys: what a line may say, what stops the start, and where a service without keys may listen."""

import re
from pathlib import Path

import pytest

from deployments.access import MAX_FILE_BYTES, AccessControl, check_keys
from deployments.settings import Access, Settings
from deployments.settings.keys import (
    MAX_KEYS,
    Key,
    Rate,
    check_exposure,
    digest_of,
    is_loopback,
    new_key,
    parse_keys,
)
from scripts import api_key
from tests.unit.sentences import sentence_of

DIGEST = digest_of("first").hex()
OTHER = digest_of("second").hex()


def parsed(text: str) -> tuple[Key, ...]:
    return parse_keys(text, "the file")


# Lines


def test_a_line_is_a_name_a_hash_scopes_and_perhaps_a_rate() -> None:
    text = f"# both\n\n  mobile-app\tsha256:{DIGEST} classify,read  2.5/10 \r\nother sha256:{OTHER} admin\n"
    assert parsed(text) == (
        Key("mobile-app", digest_of("first"), frozenset({"classify", "read"}), Rate(2.5, 10)),
        Key("other", digest_of("second"), frozenset({"admin"})),
    )


def test_two_keys_of_one_name_hold_at_once() -> None:
    assert len(parsed(f"app sha256:{DIGEST} classify\napp sha256:{OTHER} classify")) == 2


SECRET = "aperture_this-is-a-key-and-not-a-hash"
FAULTS = {
    "a key": SECRET,
    "a key in place of the hash": f"app {SECRET} classify",
    "a key called a hash": f"app sha256:{SECRET} classify",
    "a short hash": f"app sha256:{DIGEST[:-1]} classify",
    "a long hash": f"app sha256:{DIGEST}0 classify",
    "a hash of another kind": f"app md5:{DIGEST} classify",
    "no name": f"sha256:{DIGEST} classify",
    "a name with a space": f"my app sha256:{DIGEST} classify",
    "no scope": f"app sha256:{DIGEST}",
    "an unknown scope": f"app sha256:{DIGEST} classify,write",
    "a scope twice": f"app sha256:{DIGEST} read,read",
    "an empty scope": f"app sha256:{DIGEST} read,",
    "half a rate": f"app sha256:{DIGEST} read 5",
    "a rate of nothing": f"app sha256:{DIGEST} read 0/5",
    "no burst": f"app sha256:{DIGEST} read 5/0",
    "a negative rate": f"app sha256:{DIGEST} read -5/5",
    "a rate that is no number": f"app sha256:{DIGEST} read nan/5",
    "more than a line says": f"app sha256:{DIGEST} read 5/5 {SECRET}",
    "digits of another script": f"app sha256:{DIGEST} read \u0665/5",
}


@pytest.mark.parametrize("line", FAULTS.values(), ids=FAULTS)
def test_a_malformed_line_is_named_by_its_number_and_nothing_of_it_is_repeated(line: str) -> None:
    sentence = sentence_of(lambda: parsed(f"# comment\ngood sha256:{OTHER} classify\n{line}\n"))
    assert sentence.startswith("Line 3 of the file ")
    assert SECRET not in sentence
    assert DIGEST[:8] not in sentence


def test_the_same_key_twice_is_a_mistake() -> None:
    assert sentence_of(lambda: parsed(f"one sha256:{DIGEST} read\ntwo sha256:{DIGEST} classify")).startswith("Line 2 ")


@pytest.mark.parametrize("text", ["", "# app sha256:...\n\n"], ids=["nothing", "comments"])
def test_a_file_without_a_key_would_let_nobody_in(text: str) -> None:
    assert sentence_of(lambda: parsed(text)).startswith("There are 0 keys in the file")


def test_there_are_no_more_keys_than_a_request_can_be_compared_with() -> None:
    lines = [Key("app", digest_of(str(number))).line() for number in range(MAX_KEYS + 1)]
    assert len(parsed("\n".join(lines[:-1]))) == MAX_KEYS
    assert f"at most {MAX_KEYS}" in sentence_of(lambda: parsed("\n".join(lines)))


def test_a_hash_is_not_in_the_text_of_a_key() -> None:
    (key,) = parsed(f"app sha256:{DIGEST} classify")
    assert DIGEST not in repr(key)
    assert repr(digest_of("first")) not in repr(key)


# Where the lines are


def test_keys_come_from_a_file_or_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_text(f"app sha256:{DIGEST} classify\n")
    monkeypatch.setenv("SOME_KEYS", f"app sha256:{DIGEST} classify\n")
    for access in (Access(keys_file=str(tmp_path / "keys")), Access(keys_env="SOME_KEYS")):
        AccessControl(access).admit(["first"], "classify")


def fault_of(access: Access) -> str:
    """What stops the start, in the words of the command and of the replica alike."""
    sentence = sentence_of(lambda: check_keys(access))
    assert sentence == sentence_of(lambda: AccessControl(access))
    return sentence


def test_what_cannot_be_read_stops_the_start_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys"
    access = Access(keys_file=str(path))
    assert fault_of(access) == f"access.keys_file {str(path)!r} cannot be read: No such file or directory."
    path.write_bytes(b"\xff\xfe")
    assert "is not text" in fault_of(access)
    path.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    assert "is larger than" in fault_of(access)
    assert "is not a file" in fault_of(Access(keys_file=str(tmp_path)))
    monkeypatch.delenv("SOME_KEYS", raising=False)
    assert "access.keys_env 'SOME_KEYS' is no variable" in fault_of(Access(keys_env="SOME_KEYS"))
    monkeypatch.setenv("SOME_KEYS", SECRET)
    assert fault_of(Access(keys_env="SOME_KEYS")).startswith("Line 1 of access.keys_env 'SOME_KEYS' ")
    assert SECRET not in fault_of(Access(keys_env="SOME_KEYS"))


def test_settings_name_one_place_and_never_repeat_what_may_be_a_key() -> None:
    assert "only one may be set" in sentence_of(lambda: Access(keys_file="keys", open_to_all=True))
    assert "only one may be set" in sentence_of(lambda: Access(keys_file="keys", keys_env="KEYS"))
    for access in ({"keys": [SECRET]}, {"keys_env": SECRET}, {"open_to_all": SECRET}, SECRET):
        args = {"models": [{"name": "colours", "engine": "dummy"}], "access": access}
        assert SECRET not in sentence_of(lambda args=args: Settings.model_validate(args))  # type: ignore[misc]


# A new key


def made(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, Key]:
    """The key as it is shown, and its line as the service reads it."""
    assert api_key.main(["mobile-app", *arguments]) == 0
    said = capsys.readouterr()
    (key,) = parsed(said.out)
    return said.err.split()[-1], key


def test_the_command_shows_the_key_once_and_prints_the_line_that_lets_it_in(capsys: pytest.CaptureFixture[str]) -> None:
    shown, key = made(capsys, "--scopes", "read,classify", "--requests-per-s", "0.5")
    assert key == Key("mobile-app", digest_of(shown), frozenset({"classify", "read"}), Rate(0.5, 1))
    assert made(capsys, "--requests-per-s", "20", "--burst", "40")[1].rate == Rate(20, 40)
    assert made(capsys)[1].scopes == {"classify"}


def test_a_key_is_256_random_bits_with_a_mark_to_be_found_by() -> None:
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(re.fullmatch(r"aperture_[A-Za-z0-9_-]{43}", key) for key in keys)


@pytest.mark.parametrize(
    "arguments",
    [["a b"], ["app", "--scopes", "write"], ["app", "--requests-per-s", "nan"], ["app", "--burst", "5"]],
    ids=["name", "scopes", "rate", "burst without a rate"],
)
def test_the_command_refuses_what_the_service_would_refuse(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit):
        api_key.main(arguments)
    assert capsys.readouterr().out == ""


# Where a service without keys may listen


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "::ffff:127.0.0.1"])
def test_on_this_machine_alone_nobody_is_asked(host: str) -> None:
    assert is_loopback(host)
    check_exposure(Access(), host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "::ffff:192.0.2.1", "example.org", "", None])
def test_anywhere_else_a_service_without_keys_does_not_start_unless_told_so(host: str | None) -> None:
    sentence = sentence_of(lambda: check_exposure(Access(), host))
    assert repr(host) in sentence
    assert "access.open_to_all" in sentence
    for access in (Access(keys_file="keys"), Access(keys_env="KEYS"), Access(open_to_all=True)):
        check_exposure(access, host)
