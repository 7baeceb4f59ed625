"""Area under the ROC curve, per class and macro, with patient-clustered bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BOOTSTRAPS = 1000


@dataclass(frozen=True)
class Interval:
    """A figure, its 95 % interval, and how many records are behind it."""

    value: float
    low: float
    high: float
    n: int


def weighted_auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUC under several weightings of the records at once (the Mann-Whitney statistic; ties count half).

    Args:
        labels: ``(n,)`` of 0 and 1.
        scores: ``(n,)``.
        weights: ``(b, n)``, for example how often each record was drawn in each bootstrap.

    Returns:
        ``(b,)``; NaN where positives or negatives have no weight.
    """
    order = np.argsort(scores, kind="stable")
    ranked, hit = scores[order], labels[order] > 0.5
    w = weights[:, order].astype(float)  # (b, n)
    first = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])  # where a group of equal scores starts
    if len(ranked) == 0:
        return np.full(len(weights), np.nan)
    positive = np.add.reduceat(w * hit, first, axis=1)  # (b, groups)
    negative = np.add.reduceat(w * ~hit, first, axis=1)  # (b, groups)
    below = np.cumsum(negative, axis=1) - negative
    wins = (positive * (below + 0.5 * negative)).sum(axis=1)  # (b,)
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return np.divide(wins, pairs, out=np.full(len(w), np.nan), where=pairs > 0)


def macro_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Mean AUC over the classes that have positives and negatives, NaN if none has; labels and scores ``(n, C)``."""
    per_class = class_aucs(labels, scores)
    known = per_class[~np.isnan(per_class)]
    return float(known.mean()) if len(known) else float("nan")


def class_aucs(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """AUC of each class ``(C,)``; NaN for a class without positives or negatives."""
    one = np.ones((1, len(labels)))
    return np.array([weighted_auc(labels[:, c], scores[:, c], one)[0] for c in range(labels.shape[1])])


def auc_intervals(
    labels: np.ndarray, scores: np.ndarray, patients: np.ndarray, seed: int = 0, bootstraps: int = BOOTSTRAPS
) -> tuple[Interval, list[Interval | None]]:
    """Macro and per-class AUC with 95 % percentile intervals; patients, not records, are drawn.

    Args:
        labels, scores: ``(n, C)``.
        patients: ``(n,)`` identifiers.
        seed: of the bootstrap.
        bootstraps: number of draws.

    Returns:
        ``(macro, one per class)``; a class without positives or negatives is None and left out of the macro figure.
    """
    n, C = labels.shape
    unique, owner = np.unique(patients, return_inverse=True)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(unique), np.full(len(unique), 1.0 / len(unique)), size=bootstraps)  # (b, patients)
    weights = draws[:, owner]  # (b, n)
    point = class_aucs(labels, scores)
    known = [c for c in range(C) if not np.isnan(point[c])]
    drawn = {c: weighted_auc(labels[:, c], scores[:, c], weights) for c in known}
    classes = [_interval(float(point[c]), drawn[c], n) if c in drawn else None for c in range(C)]
    if not known:
        return Interval(float("nan"), float("nan"), float("nan"), n), classes
    together = np.stack([drawn[c] for c in known])  # (C', b)
    seen = ~np.isnan(together)
    macro = np.where(seen, together, 0.0).sum(0) / np.maximum(seen.sum(0), 1)
    return _interval(float(point[known].mean()), macro[seen.any(0)], n), classes


def _interval(value: float, draws: np.ndarray, n: int) -> Interval:
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return Interval(value, float(low), float(high), n)
