"""How good an attack is: true-positive rate at a low false-positive rate, with intervals that hold at small sizes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from lavq_core.metrics.auc import Interval, auc_intervals

CONFIDENCE = 0.95
LEAK = "leak found"
NO_LEAK_SHOWN = "no leak shown at this size"
NO_POWER = "no power at this size"

LEAST_PATIENTS = 30
"""Fewest members and fewest non-members with which an attack is tried at all. With fewer non-members not even an attack
that accuses none of them shows a false-positive rate below 11 %."""

NOTABLE_TPR = 0.1
"""The leak that an audit must be able to see before "no leak shown" means anything: a tenth of the members named."""


@dataclass(frozen=True)
class Proportion:
    """``hits`` out of ``trials``, with its Clopper-Pearson interval."""

    hits: int
    trials: int

    @property
    def value(self) -> float:
        """The observed rate."""
        return self.hits / self.trials

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return clopper_pearson(self.hits, self.trials)[0]

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return clopper_pearson(self.hits, self.trials)[1]


@dataclass(frozen=True)
class OperatingPoint:
    """An attack at one threshold: who scores above it is accused."""

    threshold: float
    true_positives: Proportion  # members accused
    false_positives: Proportion  # non-members accused


def clopper_pearson(hits: int, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact two-sided interval of a proportion (Clopper and Pearson 1934)."""
    tail = (1.0 - confidence) / 2.0
    low = float(beta.ppf(tail, hits, trials - hits + 1)) if hits > 0 else 0.0
    high = float(beta.ppf(1.0 - tail, hits + 1, trials - hits)) if hits < trials else 1.0
    return low, high


def operating_point(scores: np.ndarray, member: np.ndarray, max_fpr: float = 0.01) -> OperatingPoint:
    """Put the threshold where it accuses most while the false-positive rate stays within ``max_fpr``.

    With n non-members at most k = floor(n max_fpr) may be accused, so the threshold is the (k + 1)-th highest of their
    scores, and only who lies strictly above is accused. Nothing is interpolated: with 99 non-members the rate at 1 % is
    the rate without a single false accusation, and ties count against the attack.

    Because that threshold is an order statistic, its true false-positive rate follows Beta(k + 1, n - k), whose upper
    quantile is Clopper-Pearson's upper end for k of n: the interval of ``false_positives`` holds although the threshold
    was chosen on the same people.

    Args:
        scores: ``(P,)``, higher for likelier members.
        member: ``(P,)`` bool; both kinds must occur.
        max_fpr: largest false-positive rate allowed.
    """
    outsiders = np.sort(scores[~member])[::-1]
    allowed = int(np.floor(len(outsiders) * max_fpr + 1e-9))
    threshold = float(outsiders[allowed]) if allowed < len(outsiders) else -np.inf
    accused = scores > threshold
    return OperatingPoint(
        threshold,
        Proportion(int(accused[member].sum()), int(member.sum())),
        Proportion(int(accused[~member].sum()), len(outsiders)),
    )


def roc_curve(scores: np.ndarray, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False- and true-positive rates at every threshold, from (0, 0) to (1, 1); people with one score fall together."""
    order = np.argsort(-scores, kind="stable")
    ranked, hit = scores[order], member[order]
    last = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])  # where a group of equal scores ends
    true, false = np.cumsum(hit)[last], np.cumsum(~hit)[last]
    return np.r_[0.0, false / false[-1]], np.r_[0.0, true / true[-1]]


def attack_auc(scores: np.ndarray, member: np.ndarray) -> Interval:
    """Chance that a random member scores above a random non-member (ties count half), with a bootstrap interval."""
    auc, _ = auc_intervals(member[:, None].astype(float), scores[:, None], np.arange(len(scores)))
    return auc


def worth_trying(members: int, non_members: int) -> bool:
    """Tell whether there are enough people of both kinds to measure an attack on."""
    return min(members, non_members) >= LEAST_PATIENTS


def verdict(point: OperatingPoint) -> str:
    """Say what an attack has shown. It never says that a detector is private: only attacks that were tried can fail.

    - A leak is found when the lower end of the true-positive rate's interval lies above the upper end of the
      false-positive rate's. Without a leak both rates are one, and one of the two intervals must have missed it on
      one side, which each does at most once in 40 times: a false alarm in at most 1 of 20 audits, whatever the sizes.
    - There is no power with fewer than 30 people of either kind, or when at these sizes an attack that names a tenth
      of the members would still not be called a leak.
    - Otherwise no leak was shown.

    The AUC does not enter: it may be high where nobody can be named, and it also moves when members and non-members
    differ in more than membership, as folds do.
    """
    members, non_members = point.true_positives.trials, point.false_positives.trials
    if not worth_trying(members, non_members):
        return NO_POWER
    if _exceeds(point.true_positives, point.false_positives):
        return LEAK
    notable = Proportion(round(NOTABLE_TPR * members), members)
    return NO_LEAK_SHOWN if _exceeds(notable, point.false_positives) else NO_POWER


def _exceeds(true_positives: Proportion, false_positives: Proportion) -> bool:
    return true_positives.low > false_positives.high
