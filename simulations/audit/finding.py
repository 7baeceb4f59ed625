"""What one attack has found on one surface: rates with exact intervals, a curve, a lower bound of epsilon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lavq_core.metrics.auc import Interval
from simulations.audit.measure import (
    OperatingPoint,
    Proportion,
    attack_auc,
    band,
    operating_point,
    roc_curve,
)
from simulations.audit.verdict import worth_trying

Metrics = dict[str, float | str]
RUN, REPLICAS = "run", "replicas"
RATES = {"tpr_at_1pct_fpr": 0.01, "tpr_at_01pct_fpr": 0.001}
_POINTS = 200  # of a curve, on a logarithmic axis


@dataclass(frozen=True)
class Finding:
    """One attack, measured."""

    surface: str
    attack: str
    target: str  # RUN: the run's own files, members by fold; REPLICAS: the run trained again, members by coin
    auc: Interval
    votes: bool  # it asks who was trained on, and not who is easy
    points: dict[str, OperatingPoint]  # by the names of RATES
    curve: dict[str, list[float]]  # fpr, tpr, low and high of the tpr's pointwise 95 % interval

    @property
    def key(self) -> str:
        """Where its figures are among the metrics."""
        return f"audit.{self.surface}.{self.attack}." + ("" if self.target == RUN else f"{self.target}.")

    def metrics(self) -> Metrics:
        """Return flat metrics."""
        first = next(iter(self.points.values()))
        found: Metrics = {
            "auc": self.auc.value,
            "auc.low": self.auc.low,
            "auc.high": self.auc.high,
            "members": first.true_positives.trials,
            "non_members": first.false_positives.trials,
            "fpr_reached": first.false_positives.value,
            "votes": int(self.votes),
        }
        for name, point in self.points.items():
            rate = point.true_positives
            found |= {name: rate.value, f"{name}.low": rate.low, f"{name}.high": rate.high}
        return {self.key + name: value for name, value in found.items()}

    def record(self) -> dict[str, Any]:
        """Return what ``audit.json`` keeps beside the metrics."""
        return {
            "surface": self.surface,
            "attack": self.attack,
            "target": self.target,
            "votes": self.votes,
            **self.curve,
        }


def measure(surface: str, attack: str, scores: np.ndarray, member: np.ndarray, votes: bool = True) -> Finding | None:
    """Measure an attack on the run itself; None where too few people could be scored to show anything.

    Args:
        surface, attack, votes: see ``Finding``.
        scores: ``(P,)``, higher for likelier members; NaN where a patient could not be scored.
        member: ``(P,)`` bool.
    """
    known = np.isfinite(scores)
    scores, member = scores[known], member[known]
    if not worth_trying(int(member.sum()), int((~member).sum())):
        return None
    points = {name: operating_point(scores, member, rate) for name, rate in RATES.items()}
    return Finding(surface, attack, RUN, attack_auc(scores, member), votes, points, _curve(scores, member))


def measure_replicas(
    surface: str, attack: str, scores: Sequence[np.ndarray], included: Sequence[np.ndarray], votes: bool = True
) -> Finding | None:
    """Measure an attack on several replicas of a run; None where too few people could be scored.

    Rates and AUC are means over the replicas. Their intervals are those of one replica with so many people: the
    replicas share their patients, so they are no independent repetitions, and the intervals are rather too wide.

    Args:
        surface, attack, votes: see ``Finding``.
        scores: of each replica, ``(P,)``.
        included: of each replica, ``(P,)`` bool: who was in it.
    """
    found = [measure(surface, attack, *one) for one in zip(scores, included, strict=True)]
    known = [one for one in found if one is not None]
    if not known:
        return None
    value, low, high = (float(np.mean([getattr(one.auc, end) for one in known])) for end in ("value", "low", "high"))
    auc = Interval(value, low, high, known[0].auc.n)
    points = {name: _mean_point([one.points[name] for one in known]) for name in RATES}
    together = np.concatenate([_ranks(one) for one in scores])
    curve = _curve(together, np.concatenate(included), replicas=len(known))
    return Finding(surface, attack, REPLICAS, auc, votes, points, curve)


def _mean_point(points: Sequence[OperatingPoint]) -> OperatingPoint:
    def mean(rates: Sequence[Proportion]) -> Proportion:
        trials = round(float(np.mean([rate.trials for rate in rates])))
        return Proportion(round(float(np.mean([rate.value for rate in rates])) * trials), trials)

    return OperatingPoint(
        float(np.mean([point.threshold for point in points])),
        mean([point.true_positives for point in points]),
        mean([point.false_positives for point in points]),
    )


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Ranks of one replica's scores in 0..1, so that those of several can be put on one curve; NaN stays."""
    known = np.isfinite(scores)
    ranks = np.full(len(scores), np.nan)
    ranks[known] = np.searchsorted(np.sort(scores[known]), scores[known], side="left") / max(1, known.sum())
    return ranks


def _curve(scores: np.ndarray, member: np.ndarray, replicas: int = 1) -> dict[str, list[float]]:
    """ROC at rates that are even on a logarithmic axis, with pointwise Clopper-Pearson intervals."""
    known = np.isfinite(scores)
    fpr, tpr = roc_curve(scores[known], member[known])
    people = int(member[known].sum()) // replicas
    outsiders = int((~member[known]).sum())
    wanted = np.r_[0.0, np.geomspace(1.0 / outsiders, 1.0, _POINTS)]
    chosen = np.unique(np.searchsorted(fpr, wanted, side="right") - 1)
    low, high = band(tpr[chosen], people)
    return {"fpr": fpr[chosen].tolist(), "tpr": tpr[chosen].tolist(), "low": low.tolist(), "high": high.tolist()}
