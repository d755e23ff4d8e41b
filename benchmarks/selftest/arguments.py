"""The command line, checked as far as it can be before anything is sent."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.selftest.expectations import Expected, expectations
from deployments.settings.keys import is_loopback

BUDGET_S = 60.0


class WrongArguments(Exception):
    """One sentence."""


@dataclass(frozen=True)
class Options:
    """`expected`: None for the pictures that belong to the bundled model."""

    url: str
    grpc_address: str | None
    key: str | None
    model: str | None
    expected: Sequence[Expected] | None
    only: Sequence[str]
    budget_s: float
    json_only: bool


def options(arguments: Sequence[str] | None, description: str | None) -> Options:
    """Raises WrongArguments or WrongExpectations; ends the process with status 2 where argparse finds a fault."""
    given = _parser(description).parse_args(arguments)
    _check_addresses(given.url, given.grpc, allow_remote=given.allow_remote)
    if not 0 < given.budget_s < float("inf"):
        raise WrongArguments("--budget-s must be a positive number of seconds.")
    return Options(
        url=given.url,
        grpc_address=given.grpc,
        key=_key(given.api_key_env, given.key_file),
        model=given.model,
        expected=None if given.expect is None else expectations(given.expect),
        only=given.only,
        budget_s=given.budget_s,
        json_only=given.json,
    )


def _parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.selftest",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--url", required=True, help="http(s)://HOST:PORT, and the application's prefix if it has one")
    made.add_argument("--grpc", metavar="HOST:PORT", help="or https://HOST:PORT with TLS; without it, no gRPC is tried")
    keys = made.add_mutually_exclusive_group()
    keys.add_argument("--api-key-env", metavar="NAME", help="the environment variable with an API key")
    keys.add_argument("--key-file", type=Path, metavar="FILE", help="the file with an API key and nothing else")
    made.add_argument("--model", metavar="NAME", help="default: the first that is ready")
    made.add_argument(
        "--expect",
        type=Path,
        metavar="FILE|FOLDER",
        help="JSON of file (relative to it) -> label, or a folder with LABEL.jpg, LABEL-2.jpg or LABEL/*.jpg; "
        "default: examples/pictures for the bundled model",
    )
    made.add_argument("--only", nargs="+", default=[], metavar="NAME", help="topics, or claims that begin so")
    made.add_argument("--budget-s", type=float, default=BUDGET_S, help="the whole run ends after it (default: 60)")
    made.add_argument("--allow-remote", action="store_true", help="test a service on another machine")
    made.add_argument("--json", action="store_true", help="the JSON document alone")
    return made


def _check_addresses(url: str, grpc_address: str | None, *, allow_remote: bool) -> None:
    try:
        address = urlsplit(url)
        has_port = address.port != 0
    except ValueError as err:
        raise WrongArguments(f"--url is no URL: {err}.") from err
    if address.scheme not in ("http", "https") or not address.hostname or not has_port or address.query:
        raise WrongArguments("--url must be http://HOST:PORT or https://HOST:PORT, and a prefix if there is one.")
    hosts = [address.hostname]
    if grpc_address is not None:
        host, _, port = grpc_address.removeprefix("https://").rpartition(":")
        if not host or not port.isdigit():
            raise WrongArguments("--grpc must be HOST:PORT or https://HOST:PORT.")
        hosts.append(host.strip("[]"))
    for host in hosts:
        if not is_loopback(host) and not allow_remote:
            raise WrongArguments(
                f"{host} is not this machine. The test sends hostile files and bursts of requests, which others who "
                f"use the service may feel, and which its operator should know of: say --allow-remote if they do."
            )


def _key(variable: str | None, file: Path | None) -> str | None:
    if variable is not None:
        text = os.environ.get(variable, "")
    elif file is not None:
        try:
            text = file.read_text(encoding="ascii")
        except (OSError, ValueError) as err:
            raise WrongArguments(f"--key-file cannot be read: {type(err).__name__}.") from err
    else:
        return None
    key = text.strip()
    # Of one line, or it would be several headers.
    if not key or len(key.split()) != 1 or not key.isascii() or not key.isprintable():
        source = "The environment variable of --api-key-env" if variable is not None else "The file of --key-file"
        raise WrongArguments(f"{source} must hold an API key and nothing else.")
    return key
