"""Which mechanisms a private training consists of, and their noise: solved from the budget before anything is touched.

A plan depends on the configuration alone, so the server, every site and an auditor make the same one. Of the budget
(in units of squared signal over noise, which add up over full-batch mechanisms) the count of patients gets a
hundredth, the centre of the descriptions three, the detector the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from lavq_core.privacy.accounting import Mechanism, epsilon_of, scaled_to
from lavq_core.settings import Config

_SIZE_SHARE, _CENTRE_SHARE = 0.01, 0.03


@dataclass(frozen=True)
class Plan:
    """Mechanisms of one training at one site."""

    size: Mechanism  # number of training patients; in a site's first round
    centre: Mechanism  # sum of descriptions; in round 1
    detector: Mechanism  # the steps of one round; from round 2
    rounds: int

    def of_round(self, number: int, sized: bool) -> list[Mechanism]:
        """Return what a site's round takes; ``sized``: an earlier round has released the size."""
        first = [] if sized else [self.size]
        return [*first, self.centre if number == 1 else self.detector]

    def whole(self) -> list[Mechanism]:
        """Return what a site takes that is there in every round."""
        return [self.size, self.centre, replace(self.detector, steps=self.detector.steps * (self.rounds - 1))]


def make_plan(config: Config, rounds: int) -> Plan:
    """Solve the noise of a private training of so many rounds, at least 2.

    Raises:
        ConfigError: no noise keeps it within ``privacy.epsilon``.
    """
    training, privacy = config.detector_training, config.privacy
    return _solved(privacy.epsilon, privacy.delta, training.epochs / training.steps, training.steps, rounds)


def planned_epsilon(config: Config, rounds: int) -> float:
    """Epsilon of a whole training, at most ``privacy.epsilon``."""
    return epsilon_of(make_plan(config, rounds).whole(), config.privacy.delta)


@lru_cache(maxsize=16)
def _solved(epsilon: float, delta: float, rate: float, steps: int, rounds: int) -> Plan:
    every = steps * (rounds - 1)
    shares = {
        "size": (1, _SIZE_SHARE),
        "centre": (1, _CENTRE_SHARE),
        "detector": (every, 1 - _SIZE_SHARE - _CENTRE_SHARE),
    }
    wanted = [
        Mechanism(
            name,
            math.sqrt(times / share) * (rate if name == "detector" else 1.0),
            rate if name == "detector" else 1.0,
            times,
        )
        for name, (times, share) in shares.items()
    ]
    size, centre, detector = scaled_to(wanted, epsilon, delta)
    return Plan(size, centre, replace(detector, steps=steps), rounds)
