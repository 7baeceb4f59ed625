"""Two ways to do one thing, timed in turn in one process.

What else a machine does changes from minute to minute and slows both ways alike, so ours and the reference follow each
other and a ratio is taken of each such pair. Which of them goes first alternates, for what drifts within a pair. The
figure is the median of the pairs' ratios; its spread is the smallest and the largest of them. Seconds are those of the
processor, in which waiting for other programs does not count; only where a way starts processes of its own they are
those on the wall.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lavq_core.errors import RunError

FEWEST_ROUNDS = 5
Clock = Callable[[], float]


@dataclass(frozen=True)
class Way:
    """One way to do the work."""

    run: Callable[[], Any]
    units: int  # records, twins, ... that a call does; the reference may do fewer of them

    def seconds(self, clock: Clock) -> float:
        """Time one call: s per unit."""
        began = clock()
        self.run()
        return (clock() - began) / self.units


@dataclass(frozen=True)
class Pair:
    """Ours and the reference."""

    ours: Way
    reference: Way
    agree: Callable[[Any, Any], bool]  # of what both gave; a comparison of two different things is none
    clock: Clock = time.process_time


@dataclass(frozen=True)
class Timing:
    """s per unit of every round, ``(rounds,)`` each."""

    ours: np.ndarray
    reference: np.ndarray

    @property
    def speed_up(self) -> np.ndarray:
        """How many times as fast ours was, in each pair: ``(rounds,)``."""
        return self.reference / self.ours

    @property
    def cost(self) -> np.ndarray:
        """How many times as long ours took, in each pair: ``(rounds,)``."""
        return self.ours / self.reference


@dataclass(frozen=True)
class Spread:
    """A figure of several rounds."""

    median: float
    low: float  # the smallest
    high: float  # the largest
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Spread:
        """Take the median and the extremes."""
        array = np.asarray(values, dtype=float)
        return cls(float(np.median(array)), float(array.min()), float(array.max()), len(array))


def measure(name: str, pair: Pair, rounds: int = FEWEST_ROUNDS) -> Timing:
    """Run both ways once to warm up, see that they agree, and time ``rounds`` pairs.

    Raises:
        RunError: they do not agree.
    """
    if not pair.agree(pair.ours.run(), pair.reference.run()):
        raise RunError(f"benchmark {name}: ours and the reference do not give the same, so nothing can be compared")
    taken: dict[str, list[float]] = {"ours": [], "reference": []}
    for number in range(rounds):
        ways = [("ours", pair.ours), ("reference", pair.reference)]
        for which, way in ways if number % 2 == 0 else reversed(ways):
            taken[which].append(way.seconds(pair.clock))
    return Timing(np.array(taken["ours"]), np.array(taken["reference"]))


def slope(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Exponent of the cost's growth: least squares of log seconds on log size; 1 is proportional to the size."""
    return float(np.polyfit(np.log(np.asarray(sizes, float)), np.log(np.asarray(seconds, float)), 1)[0])
