"""A claim about the service, what is expected of it, and how to find out."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from benchmarks.selftest.deployment import Deployment

# Returns what came, in a few words. Raises Broken or Skipped.
Find = Callable[[Deployment], Awaitable[str]]


class Broken(Exception):
    """The claim does not hold; the text is what came instead."""


class Skipped(Exception):
    """The claim cannot be tried here; the text says why."""


@dataclass(frozen=True)
class Check:
    topic: str
    claim: str
    expected: str
    find: Find


class Topic:
    """Claims of one kind, in the order in which they are tried."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.checks: list[Check] = []

    def claim(self, expected: str) -> Callable[[Find], Find]:
        """The name of the decorated function is the claim."""

        def decorate(find: Find) -> Find:
            self.add(getattr(find, "__name__", "").replace("_", " "), expected, find)
            return find

        return decorate

    def add(self, claim: str, expected: str, find: Find) -> None:
        self.checks.append(Check(self.name, claim, expected, find))


def demand(holds: bool, came: str) -> None:
    """Raises Broken with what came, unless it holds."""
    if not holds:
        raise Broken(came)
