"""Makes an API key: `python -m scripts.api_key NAME [--scopes classify,read,admin] [--requests-per-s N] [--burst M]`.

The key goes to stderr, once, for whoever will use it. The line for the service's file of keys goes to stdout:

    python -m scripts.api_key mobile-app >> keys

The service keeps no key, only hashes (deployments/settings/keys.py), so that a lost key is replaced by a new one.
"""

import argparse
import math
import re
import sys
from collections.abc import Sequence

from deployments.settings.keys import MAX_RATE, NAME, SCOPES, Key, Rate, Scope, digest_of, new_key


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.burst is not None and options.requests_per_s is None:
        parser.error("--burst needs --requests-per-s")
    rate = None
    if options.requests_per_s is not None:
        rate = Rate(options.requests_per_s, options.burst or math.ceil(options.requests_per_s))
    key = new_key()
    print(f"The key of {options.name}, shown once: {key}", file=sys.stderr)
    print(Key(options.name, digest_of(key), options.scopes, rate).line())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.api_key", description="Makes an API key.")
    parser.add_argument(
        "name", type=_name, help="of whoever uses it: up to 63 letters, digits, dots, dashes, underscores"
    )
    parser.add_argument(
        "--scopes", type=_scopes, default="classify", help=f"of {', '.join(SCOPES)}, with commas; by default classify"
    )
    parser.add_argument("--requests-per-s", type=_rate, help="of each Ingress replica; by default any number")
    parser.add_argument("--burst", type=_burst, help="requests at once after a pause; by default those of one second")
    return parser


def _name(text: str) -> str:
    if not re.fullmatch(NAME, text, re.ASCII):
        raise argparse.ArgumentTypeError("it must be up to 63 letters, digits, dots, dashes and underscores")
    return text


def _scopes(text: str) -> frozenset[Scope]:
    scopes = frozenset(scope for scope in SCOPES if scope in text.split(","))
    if len(scopes) < len(text.split(",")):
        raise argparse.ArgumentTypeError(f"it must be some of {', '.join(SCOPES)}, with commas")
    return scopes


def _rate(text: str) -> float:
    rate = float(text)
    if not 0.001 <= rate <= MAX_RATE:  # Also for NaN.
        raise argparse.ArgumentTypeError(f"it must be from 0.001 to {MAX_RATE}")
    return rate


def _burst(text: str) -> int:
    burst = int(text)
    if not 1 <= burst <= MAX_RATE:
        raise argparse.ArgumentTypeError(f"it must be from 1 to {MAX_RATE}")
    return burst


if __name__ == "__main__":
    sys.exit(main())
