"""How good an attack is: true-positive rate at a low false-positive rate, with intervals that hold at small sizes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from lavq_core.metrics.auc import Interval, auc_intervals

CONFIDENCE = 0.95


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
        return self.interval()[0]

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.interval()[1]

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Return the interval at another confidence."""
        return clopper_pearson(self.hits, self.trials, confidence)


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


def band(tpr: np.ndarray, members: int) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise Clopper-Pearson intervals of true-positive rates ``(k,)`` among so many members."""
    hits = np.rint(tpr * members)
    tail = (1.0 - CONFIDENCE) / 2.0
    low = np.where(hits > 0, beta.ppf(tail, np.maximum(hits, 1), members - hits + 1), 0.0)
    high = np.where(hits < members, beta.ppf(1.0 - tail, hits + 1, np.maximum(members - hits, 1)), 1.0)
    return low, high
