"""When requests come: at random and evenly, or in bursts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Bursts:
    """Of the time, the share `share` has `factor` times the rate of the rest; a burst lasts `mean_s` on average.

    Bursts begin and end at random moments (a Poisson process modulated by a Markov chain of two states).
    """

    factor: float
    mean_s: float
    share: float

    def __post_init__(self) -> None:
        if self.factor < 1 or self.mean_s <= 0 or not 0 < self.share < 1:
            raise ValueError(f"Bursts need a factor >= 1, seconds > 0 and a share in (0, 1), not {self!r}.")

    @property
    def quiet_rate(self) -> float:
        """Between bursts, in units of the mean rate."""
        return 1 / (1 + (self.factor - 1) * self.share)


def poisson(per_second: float, count: int, seed: int) -> NDArray[np.float64]:
    """(count,) moments in seconds, in order."""
    gaps_s: NDArray[np.float64] = np.random.default_rng(seed).exponential(1 / per_second, count)
    return np.cumsum(gaps_s)


def piecewise(phases: Sequence[tuple[float, float]], seed: int) -> NDArray[np.float64]:
    """Moments in seconds, in order, of a Poisson process whose rate changes: phases are (end in seconds, rate)."""
    edges_s = np.array([0.0, *(end_s for end_s, _ in phases)])
    passed = np.concatenate([[0.0], np.cumsum(np.diff(edges_s) * np.array([rate for _, rate in phases]))])
    expected = passed[-1]
    progress = poisson(1.0, int(expected + 6 * expected**0.5 + 16), seed)
    moments_s: NDArray[np.float64] = np.interp(progress[progress < expected], passed, edges_s)
    return moments_s


def bursty(per_second: float, count: int, bursts: Bursts, seed: int) -> NDArray[np.float64]:
    """(count,) moments in seconds, in order, of the mean rate `per_second` over long times."""
    # A Poisson process of rate 1, with its clock running faster in bursts.
    progress = poisson(1.0, count, seed)
    edges_s, rates = _phases(per_second, progress[-1], bursts, seed)
    passed = np.concatenate([[0.0], np.cumsum(np.diff(edges_s) * rates)])
    return np.interp(progress, passed, edges_s)


def _phases(
    per_second: float, needed: float, bursts: Bursts, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Edges of quiet and busy phases in turn (n + 1), and the rate in each (n), for `needed` expected arrivals."""
    chance = np.random.default_rng([seed, 1])
    quiet_s = bursts.mean_s * (1 - bursts.share) / bursts.share
    quiet_rate = per_second * bursts.quiet_rate
    lengths_s: list[float] = []
    rates: list[float] = []
    so_far = 0.0
    while so_far <= needed:
        busy = len(lengths_s) % 2 == 1
        lengths_s.append(float(chance.exponential(bursts.mean_s if busy else quiet_s)))
        rates.append(quiet_rate * (bursts.factor if busy else 1.0))
        so_far += lengths_s[-1] * rates[-1]
    return np.concatenate([[0.0], np.cumsum(lengths_s)]), np.array(rates)
