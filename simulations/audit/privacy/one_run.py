"""Lower bounds of epsilon with a stated confidence: from one training with many canaries, or from many trainings.

One run: Steinke, Nasr and Jagielski 2023, *Privacy Auditing with One (1) Training Run*. Each of m canaries takes part
or not by a fair coin of its own; the auditor sees what was released and guesses some of the coins, abstaining from the
rest. Were the training (epsilon, delta)-differentially private for every single canary, right guesses could hardly be
more than those of independent guesses of which each is right with chance e^epsilon / (1 + e^epsilon). Too many refute
that epsilon.

What makes it valid: coins are fair and independent of each other and of everything else, scores may depend on all but
the coins, and how many guesses are made is fixed before the scores are seen. Where several numbers of guesses, groups
of canaries or attacks are tried, the permitted error is shared out equally between them (Bonferroni), so the stated
confidence is that of the largest bound found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from simulations.audit.measure import Proportion, clopper_pearson

SHARES = (1.0, 0.3, 0.1)
"""Shares of the canaries that are guessed, tried one after another; half of the guesses are "took part"."""

_TOLERANCE = 1e-4  # of a bound, which is always rounded down
_MOST = 64.0  # no bound is looked for above


@dataclass(frozen=True)
class Guesses:
    """What came of guessing coins."""

    canaries: int  # m, whose coins could have been guessed
    made: int  # r
    correct: int  # v


@dataclass(frozen=True)
class Attack:
    """A score of each of some canaries, and their coins."""

    name: str
    scores: np.ndarray  # (m,), higher for those that rather took part
    included: np.ndarray  # (m,) bool


@dataclass(frozen=True)
class Bound:
    """With ``confidence`` the training's epsilon is at least ``epsilon``."""

    epsilon: float
    confidence: float  # of the whole search, however many attacks and numbers of guesses were tried
    attack: str  # the one that gave it
    guesses: Guesses
    alpha: float  # the part of the permitted error that was its own


def p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """Bound the chance of so many right guesses under (epsilon, delta)-differential privacy.

    Theorem 5.2 of the paper: with W ~ Binomial(r, e^epsilon / (1 + e^epsilon)) it is at most
    P[W >= v] + m delta max_i (2 / i) P[v > W >= v - i].
    """
    if guesses.correct == 0:
        return 1.0
    right = 1.0 / (1.0 + np.exp(-epsilon))
    below = binom.pmf(
        np.arange(guesses.correct - 1, -1, -1), guesses.made, right
    )  # (v,) P[W = v - 1], P[W = v - 2] ...
    steepest = float((np.cumsum(below) / np.arange(1, guesses.correct + 1)).max())
    tail = float(binom.sf(guesses.correct - 1, guesses.made, right))
    return min(1.0, tail + 2.0 * guesses.canaries * delta * steepest)


def epsilon_lower_bound(guesses: Guesses, delta: float, confidence: float) -> float:
    """Return the largest epsilon that so many right guesses refute; 0 where none is."""
    return largest_refuted(lambda epsilon: p_value(guesses, epsilon, delta) <= 1.0 - confidence)


def largest_refuted(refuted: Callable[[float], bool]) -> float:
    """Bisect for the largest value that is refuted, from below; values below a refuted one are refuted with it."""
    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while high < _MOST and refuted(high):
        low, high = high, 2.0 * high
    while high - low > _TOLERANCE:
        middle = (low + high) / 2.0
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def extreme_guesses(attack: Attack, share: float) -> Guesses:
    """Guess a share of the canaries: those of the highest scores took part, as many of the lowest did not."""
    canaries = len(attack.scores)
    each = max(1, round(share * canaries / 2.0))
    order = np.argsort(attack.scores, kind="stable")
    lowest, highest = order[:each], order[max(each, canaries - each) :]
    correct = int((~attack.included[lowest]).sum() + attack.included[highest].sum())
    return Guesses(canaries, len(lowest) + len(highest), correct)


def best_bound(attacks: Sequence[Attack], delta: float, confidence: float) -> Bound:
    """Try every attack with every share of guesses, and return the largest bound, paid for by all that were tried."""
    alpha = (1.0 - confidence) / (len(attacks) * len(SHARES))
    tried = [(attack.name, extreme_guesses(attack, share)) for attack in attacks for share in SHARES]
    bounds = [
        Bound(epsilon_lower_bound(guesses, delta, 1.0 - alpha), confidence, name, guesses, alpha)
        for name, guesses in tried
    ]
    return max(bounds, key=lambda bound: bound.epsilon)


def pair_bound(true_positives: Proportion, false_positives: Proportion, delta: float, confidence: float) -> float:
    """Lower-bound epsilon from how often trainings with and without one person were told apart.

    Differential privacy asks TPR <= e^epsilon FPR + delta, and the same of their complements (Kairouz, Oh and Viswanath
    2015, *The Composition Theorem for Differential Privacy*). The rates are replaced by the ends of their
    Clopper-Pearson intervals that speak for privacy, each with half of the error; both directions rest on these same
    two ends. Trainings must be independent of each other, and the threshold chosen on others.
    """
    tpr_low = clopper_pearson(true_positives.hits, true_positives.trials, confidence)[0]
    fpr_high = clopper_pearson(false_positives.hits, false_positives.trials, confidence)[1]
    ratios = ((tpr_low - delta) / fpr_high, (1.0 - fpr_high - delta) / (1.0 - tpr_low))
    return max(0.0, float(np.log(max(*ratios, 1.0))))
