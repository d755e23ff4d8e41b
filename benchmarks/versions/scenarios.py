"""The changes, in the order in which they are played, and what must have come of each.

Each begins with what the one before has left. `Broken` says which promise was not kept; that no answer was lost,
refused or wrong is counted besides (report.py).
"""

import asyncio
import hashlib
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from benchmarks.chaos.ledger import Ledger
from benchmarks.versions.files import CORRUPT, FIRST, SECOND, SLOW, WRONG, ModelFiles
from benchmarks.versions.references import VersionedQuestion, agreement, difference
from benchmarks.versions.service import Broken, Service
from deployments.catalogue import share_of
from deployments.promotion import LEAST_FOR_P99

Figures = Mapping[str, Any]
LiveConfig = dict[str, Any]

STABLE, CANARY = "stable", "canary"
CANARY_SHARE: Final = 0.1
# By chance, a share is further off than this once in 370 runs.
SIGMAS: Final = 3.0
# Keys that are each sent twice: none of them may change its version.
KEYS: Final = 16
# How much larger a difference may be than eager float32 says it is: both versions' answers may be off by the tolerance.
DIFFERENCE_TOLERANCE: Final = 2e-3
# What the gate wants to have seen in each stage: as much as a 99th percentile needs.
PROMOTED_AFTER: Final = LEAST_FOR_P99


@dataclass
class Stage:
    """Where scenarios play. `all_ask`: without it, one caller does. `least`: how many answers make a share, and half as
    many images a comparison."""

    service: Service
    files: ModelFiles
    questions: Sequence[VersionedQuestion]
    ledger: Ledger
    all_ask: asyncio.Event
    least: int


@dataclass(frozen=True)
class Scenario:
    """`is_swap`: what answers changes, and nothing else does; the time that requests take is to stay what it was."""

    name: str
    play: Callable[[Stage], Awaitable[Figures]]
    is_swap: bool = False


def scenarios() -> list[Scenario]:
    return [
        Scenario("load version 2", load_second, is_swap=True),
        Scenario("stable to 2 and back", move_label, is_swap=True),
        Scenario("split 90/10", split),
        Scenario("corrupt version 3", refuse_corrupt),
        Scenario("wrong numbers in version 4", refuse_wrong),
        Scenario("shadow of 2 beside 1", shadow),
        Scenario("shadow to canary to stable", promote),
        Scenario("slow canary", roll_back),
        Scenario("unload version 1", unload_first, is_swap=True),
    ]


def live(versions: Any, stable: int = FIRST, canary: int | None = None, **more: Any) -> LiveConfig:
    """`user_config` where who asks for no version gets the stable one, unless `more` says something else."""
    labels = {STABLE: stable} | ({} if canary is None else {CANARY: canary})
    return {"versions": versions, "labels": labels, **({} if "traffic" in more else {"default": STABLE}), **more}


async def load_second(stage: Stage) -> Figures:
    """It is loaded beside the first, and answers only who asks for it."""
    service, began = stage.service, time.monotonic()
    stage.files.publish(SECOND)
    await service.deploy(live({"latest": 2}, canary=SECOND))
    await service.until_state(SECOND, "AVAILABLE")
    loaded_s = time.monotonic() - began
    await service.until_answered_by(SECOND, parameters={"label": CANARY})
    await service.until_answered_by(SECOND, parameters={"version": str(SECOND)})
    _check_only(stage, began, FIRST)
    return {"loaded_s": round(loaded_s, 1)}


async def move_label(stage: Stage) -> Figures:
    service, began = stage.service, time.monotonic()
    await service.deploy(live({"latest": 2}, stable=SECOND, canary=SECOND))
    await service.until_answered_by(SECOND)
    moved_s = time.monotonic() - began
    await service.deploy(live({"latest": 2}, stable=FIRST, canary=SECOND))
    await service.until_answered_by(FIRST)
    return {"moved_s": round(moved_s, 1)}


async def split(stage: Stage) -> Figures:
    """One in ten gets the canary, but who sends a key gets always the same."""
    service = stage.service
    weights = {STABLE: 1 - CANARY_SHARE, CANARY: CANARY_SHARE}
    await service.deploy(live({"latest": 2}, canary=SECOND, traffic=weights))
    # Which it does once every Ingress divides its requests.
    await service.until_answered_by(SECOND, headers={"x-routing-key": _canary_key(service.model)})
    since = time.monotonic()
    await _until_answered(stage, since, stage.least)
    found = _answers(stage, since)
    share, sent = found[SECOND] / found.total(), found.total()
    sigma = math.sqrt(CANARY_SHARE * (1 - CANARY_SHARE) / sent)
    if abs(share - CANARY_SHARE) > SIGMAS * sigma:
        raise Broken(f"The canary got {share:.1%} of {sent} requests, and not {CANARY_SHARE:.0%} +- {3 * sigma:.1%}.")
    for key in map(str, range(KEYS)):
        first, second = [await service.answering(headers={"x-routing-key": key}) for _ in range(2)]
        if first != second:
            raise Broken(f"The key {key} led to version {first} and then to {second}.")
    return {"share": round(share, 4), "of": sent, "sigmas": round(abs(share - CANARY_SHARE) / sigma, 1)}


async def refuse_corrupt(stage: Stage) -> Figures:
    """It is found in the directory, and nobody has to say that it is there."""
    service = stage.service
    await service.deploy(live("all", canary=SECOND, poll_s=1))
    await service.until_answered_by(FIRST, headers={"x-routing-key": _canary_key(service.model)})
    stage.files.publish(CORRUPT)
    return await _refused(stage, CORRUPT, "SHA-256")


async def refuse_wrong(stage: Stage) -> Figures:
    stage.files.publish(WRONG)
    return await _refused(stage, WRONG, "does not answer as when it was exported")


async def shadow(stage: Stage) -> Figures:
    """Mirrors go where nothing else does, so that all callers but one pause."""
    service, both = stage.service, {"specific": [FIRST, SECOND]}
    await service.deploy(live(both, canary=SECOND, shadow={"candidate": CANARY, "share": 1.0}))

    async def is_compared() -> bool:
        trial = (await service.comparison())["trial"]
        return trial is not None and trial["mirrored"]["images"] >= stage.least // 2

    stage.all_ask.clear()
    try:
        await service.until(is_compared, f"{stage.least // 2} images are compared")
    finally:
        stage.all_ask.set()
    return _checked_comparison(stage, (await service.comparison())["trial"]["mirrored"])


async def promote(stage: Stage) -> Figures:
    """The gate takes a candidate within its bounds all the way by itself, once it has mirrors, and then requests."""
    service, both = stage.service, {"specific": [FIRST, SECOND]}
    promotion = {
        "candidate": CANARY,
        "canary_share": 0.5,
        "min_requests": PROMOTED_AFTER,
        # The versions are known to differ.
        "bounds": {"min_agreement": 0, "max_mean_difference": 1, "max_p99_ratio": 10},
    }
    shadow = {"candidate": CANARY, "share": 1.0}
    began, reached_s, reasons = time.monotonic(), {}, {}
    await service.deploy(live(both, canary=SECOND, shadow=shadow, promotion=promotion))

    async def is_in(wanted: str) -> bool:
        trial = (await service.comparison())["trial"]
        if trial is None or trial["stage"] != wanted:
            return False
        reasons[wanted] = trial["verdict"]["reason"]
        return True

    stage.all_ask.clear()
    try:
        for wanted in ("canary", "stable"):
            await service.until(partial(is_in, wanted), f"the candidate is {wanted}")
            reached_s[wanted] = round(time.monotonic() - began, 1)
            stage.all_ask.set()
    finally:
        stage.all_ask.set()
    await service.until_answered_by(SECOND)
    since = time.monotonic()
    await _until_answered(stage, since, stage.least // 4)
    _check_only(stage, since, SECOND)
    await service.deploy(live(both, canary=SECOND))
    await service.until_answered_by(FIRST)
    return {"reached_s": reached_s, "reasons": reasons}


async def roll_back(stage: Stage) -> Figures:
    """A canary that answers, but late: the gate takes it out by itself."""
    service, began = stage.service, time.monotonic()
    stage.files.publish(SLOW)
    versions = {"specific": [FIRST, SECOND, SLOW]}
    await service.deploy(live(versions, canary=SLOW))
    await service.until_state(SLOW, "AVAILABLE")
    canary_since = time.monotonic()
    promotion = {
        "candidate": CANARY,
        "canary_share": CANARY_SHARE,
        "min_requests": 10**6,
        "stage": "canary",
        # What it says is not what is asked here.
        "bounds": {"min_agreement": 0, "max_mean_difference": 1, "max_p99_ratio": 1.5},
    }
    await service.deploy(live(versions, canary=SLOW, shadow={"candidate": CANARY, "share": 0.01}, promotion=promotion))

    async def is_rolled_back() -> bool:
        trial = (await service.comparison())["trial"]
        return trial is not None and trial["stage"] == "rolled_back"

    await service.until(is_rolled_back, "the slow canary is rolled back")
    rolled_back_s = time.monotonic() - canary_since
    reason = (await service.comparison())["trial"]["verdict"]["reason"]
    await service.until_answered_by(FIRST, headers={"x-routing-key": _canary_key(service.model)})
    had = _answers(stage, began)[SLOW]
    if not had:
        raise Broken("The slow canary got no request.")
    return {"rolled_back_s": round(rolled_back_s, 1), "canary_answers": had, "reason": reason}


async def unload_first(stage: Stage) -> Figures:
    service = stage.service
    await service.deploy(live({"specific": [SECOND]}, stable=SECOND))
    await service.until_answered_by(SECOND)
    await service.until_state(FIRST, "END")
    since = time.monotonic()
    await _until_answered(stage, since, stage.least // 4)
    _check_only(stage, since, SECOND)
    return {}


async def _refused(stage: Stage, version: int, why: str) -> Figures:
    """Two clients' ways to the reason; what was there before is there still."""
    service, began = stage.service, time.monotonic()
    reason = await service.until_state(version, "END")
    if why not in reason:
        raise Broken(f"Version {version} is refused because of {reason!r}, which says nothing of {why!r}.")

    async def is_told_elsewhere() -> bool:
        return why in await service.reason(version)

    await service.until(is_told_elsewhere, f"Triton's index says {why!r} of version {version}")
    states = await service.states()
    for other in (FIRST, SECOND):
        if states[other] != ("AVAILABLE", ""):
            raise Broken(f"Version {other} is {states[other]} after version {version} was refused.")
    _check_only(stage, began, FIRST)
    if await service.answering({"version": str(version)}) is not None:
        raise Broken(f"Version {version} was refused, and answers.")
    return {"refused_s": round(time.monotonic() - began, 1), "reason": reason}


def _checked_comparison(stage: Stage, mirrored: Mapping[str, Any]) -> Figures:
    images, found = mirrored["images"], mirrored["agreement"]
    known = agreement(stage.questions, FIRST, SECOND)
    sigma = math.sqrt(known * (1 - known) / images)
    if abs(found - known) > SIGMAS * sigma:
        raise Broken(
            f"The versions agree on {found:.1%} of {images} images, and not on {known:.1%} +- {3 * sigma:.1%}."
        )
    differences = {
        hashlib.sha256(question.picture).hexdigest(): difference(question, FIRST, SECOND)
        for question in stage.questions
        if question.label(FIRST) != question.label(SECOND)
    }
    for each in mirrored["worst"]:
        known_difference = differences.get(each["sha256"], math.inf)
        if abs(known_difference - each["difference"]) > DIFFERENCE_TOLERANCE:
            raise Broken(f"The versions do not disagree on {each['sha256']} by {each['difference']:.3f}.")
    if differences and not mirrored["worst"]:
        raise Broken("No disagreement is reported.")
    return {"images": images, "agreement": found, "known_agreement": round(known, 4), "worst": len(mirrored["worst"])}


def _canary_key(model: str) -> str:
    """Of a request that goes to the canary."""
    return next(key for key in map(str, range(10**6)) if share_of(key, model) > 1 - CANARY_SHARE / 2)


def _answers(stage: Stage, since: float) -> Counter[int]:
    """How many each version has given to requests that came after that moment and asked for none."""
    return Counter(each.version for each in stage.ledger.entries if each.outcome == "answered" and each.due >= since)


def _check_only(stage: Stage, since: float, version: int) -> None:
    if others := set(_answers(stage, since)) - {version}:
        raise Broken(f"Who asked for no version got {sorted(others)}, and not version {version} alone.")


async def _until_answered(stage: Stage, since: float, count: int) -> None:
    async def is_so() -> bool:
        return _answers(stage, since).total() >= count

    await stage.service.until(is_so, f"{count} requests are answered")
