"""Which mechanisms a private training consists of, and their noise: solved from the budget before anything is touched.

A plan depends on the configuration alone, so the server, every site and an auditor make the same one. Of the budget
(in units of squared signal over noise, which add up over full-batch mechanisms) the count of patients gets a
hundredth, the centre of the descriptions three. The rest is the detector's; where separator and codebook train as well,
they get ``privacy.separator_share`` of it, and a tenth of that is for the counts of the codes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from lavq_core.privacy.accounting import Mechanism, epsilon_of, scaled_to
from lavq_core.settings import Config
from lavq_core.training.local_steps import rounds_before

_SIZE_SHARE, _CENTRE_SHARE = 0.01, 0.03
_COUNTS_SHARE = 0.1  # of the separator's part


@dataclass(frozen=True)
class SeparatorPlan:
    """Mechanisms of one round in which the separator trains."""

    steps: Mechanism  # gradients of separator, editor, prior network and, by ``privacy.codebook``, codes
    counts: Mechanism  # counts of codes, places and statements, with ``privacy.codebook=sums`` of latents too
    before: int  # rounds that pass before the first


@dataclass(frozen=True)
class Plan:
    """Mechanisms of one training at one site."""

    size: Mechanism  # number of training patients; in a site's first round
    centre: Mechanism  # sum of descriptions; in round 1
    detector: Mechanism  # the steps of one round; from round 2
    rounds: int
    separator: SeparatorPlan | None = None  # where separator and codebook train

    def of_round(self, number: int, sized: bool) -> list[Mechanism]:
        """Return what a site's round takes; ``sized``: an earlier round has released the size."""
        first = [] if sized else [self.size]
        own = self.separator_in(number)
        further = [own.steps, own.counts] if own else []
        return [*first, self.centre if number == 1 else self.detector, *further]

    def separator_in(self, number: int) -> SeparatorPlan | None:
        """Return the separator's part of a round; None where it does not train."""
        return self.separator if self.separator and number > self.separator.before else None

    def whole(self) -> list[Mechanism]:
        """Return what a site takes that is there in every round."""
        taken = [self.size, self.centre, replace(self.detector, steps=self.detector.steps * (self.rounds - 1))]
        if self.separator:
            rounds = self.rounds - self.separator.before
            taken += [replace(one, steps=one.steps * rounds) for one in (self.separator.steps, self.separator.counts)]
        return taken


def make_plan(config: Config, rounds: int) -> Plan:
    """Solve the noise of a private training of so many rounds, at least 2.

    Raises:
        ConfigError: no noise keeps it within ``privacy.epsilon``.
    """
    training, privacy, separator = config.detector_training, config.privacy, config.separator_training
    own = (separator.steps, rounds_before(separator.after, rounds), privacy.separator_rate, privacy.separator_share)
    rate = training.epochs / training.steps
    return _solved(privacy.epsilon, privacy.delta, rate, training.steps, rounds, own if separator.steps > 0 else None)


def planned_epsilon(config: Config, rounds: int) -> float:
    """Epsilon of a whole training, at most ``privacy.epsilon``."""
    return epsilon_of(make_plan(config, rounds).whole(), config.privacy.delta)


@lru_cache(maxsize=16)
def _solved(
    epsilon: float,
    delta: float,
    rate: float,
    steps: int,
    rounds: int,
    separator: tuple[int, int, float, float] | None = None,
) -> Plan:
    rest = 1 - _SIZE_SHARE - _CENTRE_SHARE
    own_steps, before, own_rate, share = separator or (0, 0, 1.0, 0.0)
    wanted = [
        _mechanism("size", 1, 1.0, _SIZE_SHARE),
        _mechanism("centre", 1, 1.0, _CENTRE_SHARE),
        _mechanism("detector", steps * (rounds - 1), rate, rest * (1 - share)),
    ]
    if separator:
        part = rest * share
        wanted.append(_mechanism("separator", own_steps * (rounds - before), own_rate, part * (1 - _COUNTS_SHARE)))
        wanted.append(_mechanism("counts", rounds - before, 1.0, part * _COUNTS_SHARE))
    size, centre, detector, *further = scaled_to(wanted, epsilon, delta)
    own = SeparatorPlan(replace(further[0], steps=own_steps), replace(further[1], steps=1), before) if further else None
    return Plan(size, centre, replace(detector, steps=steps), rounds, own)


def _mechanism(name: str, times: int, rate: float, share: float) -> Mechanism:
    return Mechanism(name, math.sqrt(times / share) * rate, rate, times)
