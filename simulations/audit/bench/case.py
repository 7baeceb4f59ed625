"""A case of the auditor's test bench: something planted that must be found, or something sound that must pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from simulations.audit.measure import attack_auc, operating_point
from simulations.audit.verdict import names_members


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


def membership(scores: np.ndarray, member: np.ndarray) -> tuple[Outcome, Outcome]:
    """Measure an attack's scores ``(P,)``: its AUC, which convicts where members are named too, and its rate at 1 %."""
    known = ~np.isnan(scores)
    auc = attack_auc(scores[known], member[known])
    point = operating_point(scores[known], member[known])
    found, named = point.true_positives, names_members(point)
    return (
        Outcome("auc", auc.value, auc.low, auc.high, int(known.sum()), auc.low > 0.5 and named),  # never an AUC alone
        Outcome("tpr_at_1pct_fpr", found.value, found.low, found.high, int(known.sum()), named),
    )
