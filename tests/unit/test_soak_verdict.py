"""A soak can fail: whatever leaks, grows, is lost or is wrong shows, and noise does not."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from benchmarks.soak.census import SPARE, Holding, Identity, Sample
from benchmarks.soak.ledger import FATES, HONEST, Fate, Ledger, judged
from benchmarks.soak.questions import Question
from benchmarks.soak.verdict import grown, leaks, memory_checks, requests_checks, slope

MB = 10**6
REPLICA = "ray::ServeReplica:aperture:shapes"
RIGHT = {"star": 0.7, "heart": 0.2, "cross": 0.1}
OTHER = {"star": 0.1, "heart": 0.6, "cross": 0.3}


def question(answer: Mapping[str, float], refusal: str | None = None) -> Question:
    nothing = np.zeros((1, 1, 3), np.uint8)
    return Question("a picture", b"", nothing, nothing.astype(np.float32), answer, refusal)


STAR, HEART, HALF = question(RIGHT), question(OTHER), question({}, "corrupt_image")


def series(memory_mb: Sequence[float], role: str = REPLICA, number: int = 1) -> dict[Identity, list[Sample]]:
    """One sample a second."""
    holdings = [Holding(role, int(value * MB), 40, 12) for value in memory_mb]
    return {Identity(number, 1): [Sample(float(at_s), holding) for at_s, holding in enumerate(holdings)]}


def holds(memory_mb: Sequence[float]) -> bool:
    (check,) = memory_checks(grown(series(memory_mb)))
    return check.holds


def test_a_process_that_grows_steadily_is_found() -> None:
    assert not holds([400 + 0.2 * second for second in range(600)])


def test_a_process_that_grows_only_while_it_warms_up_is_flat() -> None:
    assert holds([200 + min(second, 250) for second in range(600)])


def test_memory_that_comes_and_goes_is_flat() -> None:
    noise = np.random.default_rng(0).normal(0, 25, 600)
    bursts = [150.0 if second % 20 < 4 else 0.0 for second in range(600)]
    assert holds([400 + noise[second] + bursts[second] for second in range(600)])


def test_a_leak_below_noise_and_bursts_is_found() -> None:
    noise = np.random.default_rng(0).normal(0, 25, 600)
    bursts = [150.0 if second % 20 < 4 else 0.0 for second in range(600)]
    assert not holds([400 + noise[second] + bursts[second] + 0.25 * second for second in range(600)])


def test_a_successor_begins_anew() -> None:
    first, second = series([400.0] * 100), series([300.0 + min(at, 40) for at in range(100)], number=2)
    assert [each.is_flat for each in grown({**first, **second})] == [True, True]


def test_a_life_too_short_to_judge_is_no_proof() -> None:
    assert grown(series([100.0] * 10)) == []
    assert not holds([100.0] * 10)


def test_a_slope_is_that_of_the_line_whatever_a_quarter_of_the_points_do() -> None:
    times = list(range(100))
    values = [3.0 * at + (1000 if at % 4 == 0 else 0) for at in times]
    assert slope(times, values) == pytest.approx(3.0, rel=0.05)


def held(**roles: Sequence[tuple[int, int]]) -> dict[Identity, Holding]:
    """By role, descriptors and threads of each process."""
    numbered = [(role, *counts) for role, several in roles.items() for counts in several]
    return {Identity(number, 1): Holding(role, 100 * MB, *counts) for number, (role, *counts) in enumerate(numbered)}


WARM = held(replica=[(60, 20), (62, 20)], haproxy=[(100, 4)])


@pytest.mark.parametrize(
    ("end", "broken"),
    [
        pytest.param(held(replica=[(60, 20), (70, 22)], haproxy=[(90, 4)]), [], id="as before"),
        pytest.param(held(replica=[(60, 20), (90, 20)], haproxy=[(100, 4)]), ["descriptors"], id="sockets"),
        pytest.param(held(replica=[(60, 20), (62, 40)], haproxy=[(100, 4)]), ["threads"], id="threads"),
        pytest.param(held(replica=[(60, 20)], haproxy=[(100, 4)]), ["processes"], id="a replica that stays away"),
        pytest.param(
            held(replica=[(60, 20), (62, 20)], haproxy=[(100, 4)], child=[(5, 1)]), ["processes"], id="a child"
        ),
        pytest.param(
            held(replica=[(60, 20), (62, 20)], haproxy=[(100, 4)], defunct=[(0, 0)]), ["processes"], id="a zombie"
        ),
    ],
)
def test_what_is_kept_at_the_end_is_found(end: Mapping[Identity, Holding], broken: list[str]) -> None:
    found = [check.what for check in leaks(WARM, end) if not check.holds]
    assert len(found) == len(broken)
    assert all(word in what for word, what in zip(broken, found, strict=True))


def test_rays_log_monitor_keeps_the_logs_of_the_dead_up_to_its_limit() -> None:
    role = "python3 log_monitor.py"
    warm = held(**{role: [(41, 14)]})
    assert all(check.holds for check in leaks(warm, held(**{role: [(95, 14)]})))
    assert [check.what for check in leaks(warm, held(**{role: [(260, 40)]})) if not check.holds] == [
        "no process keeps descriptors",
        "no process keeps threads",
    ]


def test_rays_spare_workers_come_and_go() -> None:
    spare = {Identity(100, 1): Holding(SPARE, MB, 5, 5)}
    assert all(check.holds for check in leaks(WARM, {**WARM, **spare}))


@pytest.mark.parametrize(
    ("found", "fate"),
    [
        pytest.param([RIGHT, OTHER], "answered", id="each its own"),
        pytest.param([{**RIGHT, "star": 0.7004}, OTHER], "answered", id="rounding"),
        pytest.param([OTHER, RIGHT], "wrong", id="each other's"),
        pytest.param([{**RIGHT, "star": 0.69}, OTHER], "wrong", id="a probability that is off"),
        pytest.param([RIGHT], "wrong", id="one too few"),
        pytest.param([RIGHT, {}], "wrong", id="nothing for one"),
        pytest.param([RIGHT, {"cat": 0.7, "heart": 0.2, "cross": 0.1}], "wrong", id="another label"),
        pytest.param([RIGHT, "corrupt_image"], "failed", id="a good image refused"),
        pytest.param([RIGHT, "overloaded"], "refused", id="one come too many"),
        pytest.param([RIGHT, "deadline_exceeded"], "expired", id="one too late"),
        pytest.param([RIGHT, "inference_failed"], "failed", id="one failed"),
    ],
)
def test_an_answer_is_judged_by_each_image(found: list[Mapping[str, float] | str], fate: Fate) -> None:
    assert judged([STAR, HEART], found, 3, one_by_one=True)[0] == fate


def test_a_broken_image_is_to_be_refused_alone_and_for_what_it_is() -> None:
    assert judged([STAR, HALF], [RIGHT, "corrupt_image"], 3, one_by_one=True)[0] == "answered"
    assert judged([STAR, HALF], [RIGHT, "inference_failed"], 3, one_by_one=True)[0] == "failed"
    assert judged([STAR, HALF], [RIGHT, OTHER], 3, one_by_one=True)[0] == "wrong"


def ledger(**fates: int) -> Ledger:
    return Ledger(fates={"a kind": Counter(fates)})  # type: ignore[arg-type]


@pytest.mark.parametrize("fate", FATES)
def test_what_is_lost_wrong_or_failed_breaks_a_soak_and_what_is_honest_does_not(fate: Fate) -> None:
    found = requests_checks(ledger(answered=100, **({fate: 1} if fate != "answered" else {})))
    assert all(check.holds for check in found) == (fate in HONEST)


def test_a_service_that_refuses_most_does_not_pass() -> None:
    assert not all(check.holds for check in requests_checks(ledger(answered=10, refused=90)))
    hurried = Ledger(fates={"one": Counter({"answered": 9}), "bursts": Counter({"refused": 900})})
    assert all(check.holds for check in requests_checks(hurried))
    silent = Ledger(fates={"one": Counter({"answered": 9}), "another": Counter({"refused": 1})})
    assert [check.found for check in requests_checks(silent) if not check.holds] == ["another"]
