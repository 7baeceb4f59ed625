"""What an audit says in the end: one of three things, and never that a model is private.

Only attacks that were tried can fail, so an audit can show a leak and cannot show that there is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.stats import norm

from simulations.audit.measure import CONFIDENCE, OperatingPoint

LEAK = "leak found"
CONSISTENT = "consistent with the claim"
NO_POWER = "no power at this size"

LEAST_PATIENTS = 30
"""Fewest members and fewest non-members with which an attack is tried at all. With fewer non-members not even an attack
that accuses none of them shows a false-positive rate below 11 %."""


def worth_trying(members: int, non_members: int) -> bool:
    """Tell whether there are enough people of both kinds to measure an attack on."""
    return min(members, non_members) >= LEAST_PATIENTS


def names_members(point: OperatingPoint, tests: int = 1) -> bool:
    """Tell whether an attack finds more members than outsiders beyond doubt.

    The lower end of the true-positive rate's interval lies above the upper end of the false-positive rate's. Without a
    leak both rates are one, and one of the two intervals must have missed it on one side, which each does at most once
    in 40 times: a false alarm in at most 1 of 20 audits, whatever the sizes.

    Args:
        point: at a low false-positive rate.
        tests: how many attacks are asked this in one audit; they share the one false alarm in 20.
    """
    confidence = 1.0 - (1.0 - CONFIDENCE) / tests
    found, accused = point.true_positives.interval(confidence), point.false_positives.interval(confidence)
    return found[0] > accused[1]


def tells_members(auc: float, members: int, outsiders: int, tests: int = 1) -> bool:
    """Tell whether members score above outsiders beyond doubt, where coins have said who is one.

    Mann and Whitney's test (1947), one-sided: without a leak the coins have nothing to do with the scores, so the AUC
    is one half with variance (m + n + 1) / (12 m n), and a mean over replicas of the same people varies no more.
    Perhaps nobody can be named then, but all of them together have left a trace. Of folds it would prove nothing: they
    differ in more than membership.

    Args:
        auc: of one replica, or the mean of several.
        members, outsiders: people of either kind in one replica.
        tests: see ``names_members``.
    """
    spread = math.sqrt((members + outsiders + 1) / (12 * members * outsiders))
    return auc > 0.5 + float(norm.isf((1.0 - CONFIDENCE) / tests)) * spread


def verdict(
    leaks: Sequence[bool], claimed: float, bounds: Sequence[float], provable: float, checked: bool = False
) -> str:
    """Put an audit's answers together.

    - *leak found*: nothing was claimed and an attack names members, or tells them from others where coins have said
      who is one; or a lower bound of epsilon lies above the claim, or the noise that was claimed is not in what was
      released.
    - *consistent with the claim*: an epsilon was claimed, no bound lies above it, and the audit could have shown more:
      a perfect attack at these sizes would have given a bound above the claim, or the noise itself was measured.
    - *no power at this size*: everything else. Where nothing is claimed, an attack that found nothing has shown just
      that it found nothing.

    Args:
        leaks: whether each attack finds members (``names_members``, ``tells_members``); with a claim, whether each
            check of the noise failed.
        claimed: epsilon; 0 where none is.
        bounds: lower bounds of epsilon that hold together.
        provable: the bound that a perfect attack would have given.
        checked: the noise was measured.
    """
    if any(leaks) or (claimed > 0 and any(bound > claimed for bound in bounds)):
        return LEAK
    if claimed > 0 and (checked or provable > claimed):
        return CONSISTENT
    return NO_POWER
