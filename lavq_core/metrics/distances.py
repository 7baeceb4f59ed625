"""Distances between ECGs, and between sets of ECGs.

``dtw`` compares pairs of signals. ``frechet_distance`` and ``knn_precision_recall`` compare a set of made examples with
a set of real ones in a feature space, for which ``lavq_core.metrics.features`` is the fixed public one.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

_FLAT = 1e-6  # mV, standard deviation below which a lead is flat and z-scores to 0
_ROWS = 256  # leads warped at once: the band's three diagonals then stay in the processor's cache


def dtw(a: np.ndarray, b: np.ndarray, band: float = 0.1) -> np.ndarray:
    """Dynamic time warping distance of pairs of ECGs, lead by lead.

    The symmetric form of Sakoe & Chiba (IEEE Trans. ASSP 1978, slope constraint P = 0): a diagonal step costs twice
    the difference, a straight one once, and the sum is divided by 2 T. So it is a mean difference per step, and
    the path that is found is the best under this normalisation too.

    Args:
        a, b: ``(n, leads, T)`` in any unit; each lead is z-scored on its own, a flat one to 0.
        band: how far the warp may lead or lag, as a share of T.

    Returns:
        ``(n,)`` in standard deviations, mean over leads; symmetric, 0 for equal pairs.

    Raises:
        ValueError: shapes differ, or the band is no share.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim != 3 or not a.shape[-1]:
        raise ValueError(f"expected two arrays of one shape (n, leads, T), got {a.shape} and {b.shape}")
    if not 0 <= band <= 1:
        raise ValueError(f"the band is a share of T from 0 to 1, got {band}")
    n, leads, T = a.shape
    width = int(np.ceil(band * T))
    one, two = (_z_scored(x).reshape(n * leads, T) for x in (a, b))
    rows = range(0, n * leads, _ROWS)
    cost = [_warp(one[r : r + _ROWS], two[r : r + _ROWS], width) for r in rows]
    return np.concatenate(cost).reshape(n, leads).mean(axis=1) if cost else np.zeros(0)


def _z_scored(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    centred, spread = x - x.mean(axis=-1, keepdims=True), x.std(axis=-1, keepdims=True)
    return np.where(spread > _FLAT, centred / np.maximum(spread, _FLAT), 0.0).astype(np.float32)


def _warp(a: np.ndarray, b: np.ndarray, width: int) -> np.ndarray:
    """Cost ``(m,)`` of the best path for rows ``(m, T)``, one anti-diagonal i + j = d of the band after the other.

    A diagonal is an array (places, m), place i + 1 for sample i of ``a``; what lies outside the band is infinite.
    """
    m, T = a.shape
    first, second = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T[::-1])  # (T, m), the second reversed
    diagonals = np.full((3, T + 1, m), np.inf, dtype=np.float32)
    for d in range(2 * T - 1):
        low, high = max(0, d - T + 1, (d - width + 1) // 2), min(d, T - 1, (d + width) // 2)  # of i, both included
        now, last, older = (diagonals[(d - k) % 3] for k in range(3))
        here = slice(low + 1, high + 2)
        step = np.abs(first[low : high + 1] - second[T - 1 - d + low : T - d + high])  # (places, m): |a_i - b_(d-i)|
        if d == 0:
            now[here] = 2 * step
            continue
        straight = np.minimum(last[low : high + 1], last[here])  # from (i - 1, j), from (i, j - 1)
        straight += step
        step *= 2
        step += older[low : high + 1]  # from (i - 1, j - 1)
        np.minimum(straight, step, out=now[here])
        now[low], now[high + 2 : high + 3] = np.inf, np.inf
    return diagonals[(2 * T - 2) % 3, T].astype(np.float64) / (2 * T)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance between Gaussians fitted to two sets of features (Heusel et al., NeurIPS 2017).

    ``|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))``, with the root's trace taken from the eigenvalues of the
    symmetric ``S_a^(1/2) S_b S_a^(1/2)``, which stays real where covariances are nearly singular. It falls with n:
    compare figures of equal n only, beside that of two halves of the real set.

    Args:
        a, b: ``(n, F)`` and ``(m, F)``.

    Raises:
        ValueError: a set has no more examples than features: its covariance would be singular, the figure mostly bias.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"expected features (n, F) and (m, F), got {a.shape} and {b.shape}")
    n, F = min(len(a), len(b)), a.shape[1]
    if n <= F:
        raise ValueError(f"{n} examples do not fit a Gaussian of {F} features: bring at least {F + 1}")
    S_a, S_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = np.linalg.eigh(S_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ S_b @ root).clip(0)).sum()
    gap = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    return float(max(gap + np.trace(S_a) + np.trace(S_b) - 2 * cross, 0.0))


def knn_precision_recall(real: np.ndarray, made: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Precision and recall of a made set (Kynkaanniemi et al., NeurIPS 2019).

    A set's manifold is the union of the balls around its examples that reach to each one's k-th nearest neighbour.

    Args:
        real, made: ``(n, F)`` and ``(m, F)``.
        k: neighbours.

    Returns:
        ``(precision, recall)``: the share of made examples inside the real manifold (do they look real?), and of real
        ones inside the made manifold (is every kind made?).

    Raises:
        ValueError: a set has no more than k examples.
    """
    real, made = np.asarray(real, dtype=np.float64), np.asarray(made, dtype=np.float64)
    if k < 1 or min(len(real), len(made)) <= k:
        raise ValueError(f"{min(len(real), len(made))} examples have no {k} neighbours each: bring more, or lower k")
    across = cdist(real, made)  # (n, m)
    precision = (across <= _radius(real, k)[:, None]).any(axis=0).mean()
    recall = (across <= _radius(made, k)[None]).any(axis=1).mean()
    return float(precision), float(recall)


def _radius(x: np.ndarray, k: int) -> np.ndarray:
    """Distance ``(n,)`` of each example to its k-th nearest other one."""
    return np.asarray(np.partition(cdist(x, x), k, axis=1)[:, k])  # place 0 is its own
