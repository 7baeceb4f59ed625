"""Figures of a classifier beside its AUC: average precision, Brier score, calibration error, sensitivity, specificity.

Every function scores one class under several weightings of the records at once, ``(b, n)``, so that a bootstrap is one
call and not a thousand: a weight is how often the record was drawn.
"""

from __future__ import annotations

import numpy as np

CALIBRATION_BINS = 15


def weighted_auprc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average precision: the sum over thresholds of the precision there times the recall gained there.

    The step-wise area under the precision-recall curve, without interpolation, as scikit-learn defines it. Its value at
    chance is the prevalence.

    Args:
        labels: ``(n,)`` of 0 and 1.
        scores: ``(n,)``; equal scores share one threshold.
        weights: ``(b, n)``.

    Returns:
        ``(b,)``; NaN where positives have no weight.
    """
    if len(labels) == 0:
        return np.full(len(weights), np.nan)
    order = np.argsort(-scores, kind="stable")
    ranked, hit = scores[order], labels[order] > 0.5
    first = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])  # where a group of equal scores starts
    w = weights[:, order].astype(float)  # (b, n)
    everything = np.add.reduceat(w, first, axis=1)  # (b, groups)
    positive = np.add.reduceat(w * hit, first, axis=1)
    above = np.cumsum(everything, axis=1)
    precision = np.divide(np.cumsum(positive, axis=1), above, out=np.zeros_like(above), where=above > 0)
    return _ratio((precision * positive).sum(axis=1), positive.sum(axis=1))


def weighted_brier(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Brier score, the mean squared distance of probability and label: ``(b,)``; arguments as ``weighted_auprc``."""
    return _ratio(weights @ (probabilities - labels) ** 2, weights.sum(axis=1))


def weighted_ece(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error of one class with 15 bins of equal mass.

    Bins lie between the quantiles of the probabilities (as given, each record once; equal probabilities share a bin).
    In each, the mean probability is compared with the share of positives; the differences' absolute values are averaged
    by the bins' weights (Naeini et al., AAAI 2015, with bins of equal mass as Nixon et al., CVPR workshops 2019).
    Sampling noise alone makes it positive: with n records of a perfectly calibrated classifier up to about
    ``sqrt(30 v / (pi n))``, v the mean of p (1 - p): .03 for n = 1,000 and v = .1.
    """
    if len(labels) == 0:
        return np.full(len(weights), np.nan)
    edges = np.quantile(probabilities, np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS)
    inside = np.eye(CALIBRATION_BINS)[np.searchsorted(edges, probabilities, side="left")]  # (n, bins)
    gaps = weights @ (inside * (probabilities - labels)[:, None])  # (b, bins), a bin's weight times its difference
    return _ratio(np.abs(gaps).sum(axis=1), weights.sum(axis=1))


def sensitivity_specificity(
    labels: np.ndarray, probabilities: np.ndarray, threshold: float, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Share of positives at or above a threshold, and of negatives below it: two ``(b,)``, NaN where there are none."""
    hit, flagged = labels > 0.5, probabilities >= threshold
    w = weights.astype(float)
    sensitivity = _ratio(w @ (hit & flagged), w @ hit)
    return sensitivity, _ratio(w @ (~hit & ~flagged), w @ ~hit)


def sensitivity_threshold(labels: np.ndarray, probabilities: np.ndarray, sensitivity: float) -> float:
    """Return the largest threshold at which at least this share of the positives lies on or above it.

    Raises:
        ValueError: there is no positive, or the share is not above 0 and up to 1.
    """
    positives = np.sort(probabilities[labels > 0.5])[::-1]
    if len(positives) == 0 or not 0.0 < sensitivity <= 1.0:
        raise ValueError(f"no threshold reaches a sensitivity of {sensitivity} on {len(positives)} positives")
    needed = int(np.ceil(sensitivity * len(positives) - 1e-9))
    return float(positives[needed - 1])


def youden_threshold(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the threshold with the largest sensitivity + specificity - 1 (Youden, Cancer 1950); of equals the highest.

    Raises:
        ValueError: positives or negatives are missing.
    """
    hit = labels > 0.5
    if hit.all() or not hit.any():
        raise ValueError("Youden's threshold needs positives and negatives")
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    last = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])  # a threshold takes in all its equals
    gained = np.cumsum(hit[order])[last] / hit.sum() - np.cumsum(~hit[order])[last] / (~hit).sum()
    return float(ranked[last[int(gained.argmax())]])


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
