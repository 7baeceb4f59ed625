"""Figures about twins: are they the requested disease, still the patient, neither caricatures nor copies?

Functions take arrays and know nothing of how twins are made. Median beats are those of ``find_beats``; scores are
probabilities of judges that never trained the twins. Those that return one figure per twin leave it to
``bootstrap_mean`` and ``bootstrap_auc`` to draw the intervals, over patients.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import pdist
from scipy.stats import trim_mean

from lavq_core.metrics.auc import BOOTSTRAPS, Interval, weighted_auc
from lavq_core.signals.rpeaks import find_r_peaks_batch

_TRIM = 0.25  # of the RR intervals at either end: an interval more or less at the record's edge then moves nothing


class ScoreGap(NamedTuple):
    """How two sets of scores differ."""

    mean: float  # mean of the made ones less that of the real ones; positive for caricatures
    ks: float  # largest distance between the two distribution functions (Kolmogorov-Smirnov), 0..1


def identity_top1(
    made: np.ndarray, owners: np.ndarray, gallery: np.ndarray, among: int = 400, seed: int = 0
) -> np.ndarray:
    """Tell which twins are nearest to their own patient, among so many patients drawn from a gallery.

    Nearest is the least L2 distance between median beats, each lead's mean removed. A tie is a miss.

    Args:
        made: ``(n, 8, W)`` mV, median beats of twins.
        owners: ``(n,)`` each twin's patient, as a position in ``gallery``.
        gallery: ``(m, 8, W)`` mV, median beats of m different patients.
        among: patients compared, the own one included; the others are drawn anew for each twin.
        seed: of these draws.

    Returns:
        ``(n,)`` bool.

    Raises:
        ValueError: the gallery has fewer than ``among`` patients, or an owner is not in it.
    """
    owners = np.asarray(owners, dtype=np.int64)
    if not 2 <= among <= len(gallery):
        raise ValueError(f"cannot draw {among} patients from a gallery of {len(gallery)}")
    if len(owners) != len(made) or ((owners < 0) | (owners >= len(gallery))).any():
        raise ValueError("every twin needs an owner, a position in the gallery")
    made, gallery = _without_offset(made), _without_offset(gallery)
    rng = np.random.default_rng(seed)
    hits = np.zeros(len(made), dtype=bool)
    for row, own in enumerate(owners.tolist()):
        others = rng.choice(len(gallery) - 1, among - 1, replace=False)
        others += others >= own  # skips the owner
        nearest = ((gallery[others] - made[row]) ** 2).sum(axis=(1, 2)).min()
        hits[row] = ((gallery[own] - made[row]) ** 2).sum() < nearest
    return hits


def score_gap(made_scores: np.ndarray, real_scores: np.ndarray) -> ScoreGap:
    """Compare a judge's scores of twins with those of real records of the class: ``(n,)`` and ``(m,)``."""
    made, real = np.sort(np.asarray(made_scores, dtype=float)), np.sort(np.asarray(real_scores, dtype=float))
    if not len(made) or not len(real):
        raise ValueError("both sets of scores need at least one")
    places = np.concatenate([made, real])
    below = [np.searchsorted(scores, places, side="right") / len(scores) for scores in (made, real)]
    return ScoreGap(float(made.mean() - real.mean()), float(np.abs(below[0] - below[1]).max()))


def unrequested_classes(scores: np.ndarray, requested: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Tell which abnormal classes nobody requested a judge sees all the same.

    Args:
        scores: ``(n, 5)`` in the order of ``SUPERCLASSES``; NORM, the first, is left out.
        requested: ``(n, 5)`` bool.
        thresholds: ``(5,)``; a class is seen where its score exceeds its threshold.

    Returns:
        ``(n, 4)``: 1 seen, 0 not seen, NaN requested. For an interval of the rate, ravel it, each patient 4 times.
    """
    seen = np.asarray(scores)[:, 1:] > np.asarray(thresholds)[1:]
    return np.where(np.asarray(requested, dtype=bool)[:, 1:], np.nan, seen)


def unrequested_rate(scores: np.ndarray, requested: np.ndarray, thresholds: np.ndarray) -> float:
    """Share of ``unrequested_classes`` that the judge sees, over all twins; NaN where everything was requested."""
    seen = unrequested_classes(scores, requested, thresholds)
    known = ~np.isnan(seen)
    return float(seen[known].mean()) if known.any() else float("nan")


def average_treatment_effect(before: np.ndarray, after: np.ndarray) -> float:
    """Mean change of the judge's probability of the target class, patient by patient: ``(n,)`` each (ATE)."""
    return float((np.asarray(after, dtype=float) - np.asarray(before, dtype=float)).mean())


def diversity_ratio(made: np.ndarray, real: np.ndarray) -> float:
    """Mean distance between twins over that between real records of different patients.

    Args:
        made, real: ``(n, 8, W)`` and ``(m, 8, W)`` mV, median beats, aligned; each lead's mean is removed.

    Raises:
        ValueError: a set has fewer than two.
    """
    if min(len(made), len(real)) < 2:
        raise ValueError("a mean distance needs at least two of a set")
    distances = [pdist(_without_offset(x).reshape(len(x), -1)).mean() / np.sqrt(x[0].size) for x in (made, real)]
    return float(distances[0] / distances[1])


def gate_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of gates ``(n, N)`` bool: ``(n,)``, NaN where both are empty."""
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    both, either = (a & b).sum(axis=1), (a | b).sum(axis=1)
    return np.divide(both, either, out=np.full(len(a), np.nan), where=either > 0)


def heart_rate_change(before: np.ndarray, after: np.ndarray, rate: int) -> np.ndarray:
    """Change of heart rate ``(n,)`` in beats per minute, from the mean of the middle half of the RR intervals.

    Args:
        before, after: ``(n, 8, T)`` mV.
        rate: Hz.

    Returns:
        ``(n,)``; NaN where either has fewer than two beats.
    """
    return _heart_rates(after, rate) - _heart_rates(before, rate)


def outside_gate_change(original: np.ndarray, twin: np.ndarray, envelope: np.ndarray) -> np.ndarray:
    """Largest change where the envelope is 0, per record: ``(n,)`` in uV, NaN where it is 0 nowhere.

    Args:
        original, twin: ``(n, 8, T)`` mV.
        envelope: ``(n, T)`` in 0..1.
    """
    outside = np.asarray(envelope) == 0
    change = np.abs(np.asarray(twin, dtype=float) - np.asarray(original, dtype=float)).max(axis=1)  # (n, T) mV
    return np.where(outside.any(axis=1), 1000 * np.where(outside, change, 0.0).max(axis=1), np.nan)


def bootstrap_mean(values: np.ndarray, patients: np.ndarray, seed: int = 0, bootstraps: int = BOOTSTRAPS) -> Interval:
    """Mean with its 95 % percentile interval; patients, not twins, are drawn.

    Args:
        values: ``(n,)`` numbers or bool; NaN is left out, and not counted in the interval's n.
        patients: ``(n,)`` identifiers.
        seed: of the draws.
        bootstraps: number of draws.
    """
    values = np.asarray(values, dtype=float)
    known = ~np.isnan(values)
    weights = _draws(np.asarray(patients)[known], seed, bootstraps)  # (b, n')
    if not known.any():
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    means = weights @ values[known] / weights.sum(axis=1)
    return _interval(float(values[known].mean()), means, int(known.sum()))


def bootstrap_auc(
    labels: np.ndarray, scores: np.ndarray, patients: np.ndarray, seed: int = 0, bootstraps: int = BOOTSTRAPS
) -> Interval:
    """AUC with its 95 % percentile interval; a patient brings all records, for example the twin and its original.

    Args:
        labels: ``(n,)`` of 0 and 1.
        scores: ``(n,)``; a record scored NaN is left out, and not counted in the interval's n.
        patients: ``(n,)`` identifiers.
        seed: of the draws.
        bootstraps: number of draws; those without a positive or a negative are passed over.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=float)
    known = ~np.isnan(scores)
    labels, scores = labels[known], scores[known]
    value = weighted_auc(labels, scores, np.ones((1, len(labels))))[0]
    if np.isnan(value):
        return Interval(float("nan"), float("nan"), float("nan"), len(labels))
    drawn = weighted_auc(labels, scores, _draws(np.asarray(patients)[known], seed, bootstraps))
    return _interval(float(value), drawn, len(labels))


def _draws(patients: np.ndarray, seed: int, bootstraps: int) -> np.ndarray:
    """How often each record is drawn with its patient: ``(bootstraps, n)``."""
    unique, owner = np.unique(patients, return_inverse=True)
    if not len(unique):
        return np.zeros((bootstraps, 0))
    rng = np.random.default_rng(seed)
    return rng.multinomial(len(unique), np.full(len(unique), 1 / len(unique)), size=bootstraps)[:, owner]


def _interval(value: float, drawn: np.ndarray, n: int) -> Interval:
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Interval(value, float(low), float(high), n)


def _without_offset(beats: np.ndarray) -> np.ndarray:
    beats = np.asarray(beats, dtype=np.float64)
    return beats - beats.mean(axis=-1, keepdims=True)


def _heart_rates(signals: np.ndarray, rate: int) -> np.ndarray:
    intervals = [np.diff(peaks) / rate for peaks in find_r_peaks_batch(signals, rate)]  # s
    return np.array([60 / trim_mean(rr, _TRIM) if len(rr) else np.nan for rr in intervals])
