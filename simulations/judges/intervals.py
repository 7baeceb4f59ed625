"""Intervals over patients, for figures that compare groups with patients in common.

One draw of patients weighs twins, their originals and real records together, so that a difference of two figures has
the interval of the difference. A statistic is computed for all draws at once and has the undrawn value in front.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import t as student

from lavq_core.metrics.auc import BOOTSTRAPS, Interval, weighted_auc

_BLOCKS = 10  # of the jackknife


def patient_weights(*groups: np.ndarray, seed: int = 0, bootstraps: int = BOOTSTRAPS) -> list[np.ndarray]:
    """Draw patients with replacement.

    Args:
        groups: ``(n_i,)`` patient of each record of a group; patients may be in several groups.
        seed: of the draws.
        bootstraps: b.

    Returns:
        ``(1 + b, n_i)`` per group: how often each record was drawn; the first row is all ones.
    """
    unique, owner = np.unique(np.concatenate(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(unique), np.full(len(unique), 1 / len(unique)), size=bootstraps)
    weights = np.concatenate([np.ones((1, len(unique)), drawn.dtype), drawn])[:, owner]  # (1 + b, n)
    return np.split(weights, np.cumsum([len(group) for group in groups])[:-1], axis=1)


def interval(statistic: np.ndarray, n: int, centred: bool = False) -> Interval:
    """95 % percentile interval of ``(1 + b,)``: the value, then its draws.

    Args:
        statistic: from weights of ``patient_weights``.
        n: records behind it.
        centred: shift the draws to have the value as their mean. Drawing twice puts steps into a distribution that has
            none, which widens a Kolmogorov-Smirnov distance in every draw.
    """
    value, drawn = float(statistic[0]), statistic[1:]
    if np.isnan(drawn).all():
        return Interval(value, float("nan"), float("nan"), n)
    drawn = drawn + (value - np.nanmean(drawn)) if centred else drawn
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Interval(value, float(low), float(high), n)


def auc(high: np.ndarray, low: np.ndarray, high_weights: np.ndarray, low_weights: np.ndarray) -> np.ndarray:
    """Chance that one of ``high (n,)`` beats one of ``low (m,)``, under weights ``(b, n)`` and ``(b, m)``: ``(b,)``."""
    labels = np.r_[np.ones(len(high)), np.zeros(len(low))]
    return weighted_auc(labels, np.r_[high, low], np.concatenate([high_weights, low_weights], axis=1))


def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean of ``(n, ...)`` under ``(b, n)``: ``(b,)``; NaN values are left out."""
    flat = values.reshape(len(values), -1).astype(float)
    known = ~np.isnan(flat)
    total = weights @ np.where(known, flat, 0.0).sum(axis=1)
    count = weights @ known.sum(axis=1).astype(float)
    return np.divide(total, count, out=np.full(len(weights), np.nan), where=count > 0)


def kolmogorov_smirnov(a: np.ndarray, b: np.ndarray, a_weights: np.ndarray, b_weights: np.ndarray) -> np.ndarray:
    """Largest distance of the distribution functions of ``a (n,)`` and ``b (m,)`` under weights: ``(b,)`` in 0..1."""
    scores = np.r_[a, b]
    order = np.argsort(scores, kind="stable")
    last = np.r_[scores[order][1:] != scores[order][:-1], True]  # equal scores step together

    def below(part: slice, weights: np.ndarray) -> np.ndarray:
        padded = np.zeros((len(weights), len(scores)))
        padded[:, part] = weights
        steps = np.cumsum(padded[:, order], axis=1)[:, last]
        return np.divide(steps, steps[:, -1:], out=np.full_like(steps, np.nan), where=steps[:, -1:] > 0)

    split = len(a)
    return np.asarray(np.abs(below(slice(split), a_weights) - below(slice(split, None), b_weights)).max(axis=1))


def jackknife(
    statistic: Callable[[Sequence[np.ndarray]], np.ndarray], groups: Sequence[np.ndarray], seed: int = 0
) -> list[Interval]:
    """Interval of figures that drawing with replacement would spoil, such as distances to nearest neighbours.

    Patients are dealt into 10 blocks and each is left out in turn (Quenouille 1956; Tukey 1958).

    Args:
        statistic: from one bool mask ``(n_i,)`` a group to ``(q,)`` figures.
        groups: ``(n_i,)`` patient of each record of a group.
        seed: of the blocks.

    Returns:
        q intervals; n counts the records of the first group.
    """
    unique, owner = np.unique(np.concatenate(list(groups)), return_inverse=True)
    blocks = min(_BLOCKS, len(unique))
    block = (np.random.default_rng(seed).permutation(len(unique)) % blocks)[owner]
    parts = np.split(block, np.cumsum([len(group) for group in groups])[:-1])
    value = statistic([np.ones(len(group), bool) for group in groups])  # (q,)
    left = np.stack([statistic([part != number for part in parts]) for number in range(blocks)])  # (blocks, q)
    spread = np.sqrt((blocks - 1) / blocks * ((left - left.mean(axis=0)) ** 2).sum(axis=0))
    reach = student.ppf(0.975, blocks - 1) * spread
    return [Interval(float(v), float(v - r), float(v + r), len(groups[0])) for v, r in zip(value, reach, strict=True)]
