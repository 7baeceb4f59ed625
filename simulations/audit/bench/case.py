"""A case of the auditor's test bench: something planted that must be found, or something sound that must pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """One figure of one repeat of a case."""

    metric: str  # epsilon_lower_bound, noise_ratio, tpr_at_1pct_fpr, auc or linkage_top1
    value: float
    low: float  # 95 % interval; a lower bound's own confidence is in it already: both ends are then the value
    high: float
    n: int  # people or canaries behind it
    flagged: bool  # the auditor calls it a leak, or a claim that does not hold


@dataclass(frozen=True)
class Case:
    """What is played, and what the auditor has to say of it."""

    name: str  # planted/NAME or correct/NAME
    what: str  # one sentence: what is wrong with it, or why nothing is
    guilty: bool
    claimed_epsilon: float | None  # None where no privacy is claimed
    repeats: int  # how often the bench plays it; each with a seed of its own
    play: Callable[[int], Sequence[Outcome]]  # by seed; the first outcome is the one that convicts or acquits
