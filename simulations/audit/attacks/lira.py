"""Two membership-inference attacks on a detector, at patient level.

LiRA: Carlini, Chien, Nasr, Song, Terzis and Tramer, *Membership Inference Attacks From First Principles* (IEEE S&P
2022), the online attack of their Algorithm 1 with the fixed variance of section VI-B, the stable choice with few shadow
models. One addition for the same reason: with 4 shadows on either side a patient's two means are mostly noise, so the
gap between them is shrunk towards everybody's mean gap.

The loss threshold (Yeom, Giacomelli, Fredrikson and Jha 2018, *Privacy Risk in Machine Learning*) is the baseline that
LiRA has to beat: it cannot tell a patient who was trained on from one who is easy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def label_margin(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Logit-scaled confidence in the true labels, averaged over the classes.

    For each class the detector gives its true value (present or absent) the probability p; the statistic is
    log p - log(1 - p), the logit scaling of Carlini et al., which is near normal where p is not. With a sigmoid that is
    the logit itself with the sign of the label, so nothing saturates. Averaging over classes treats the multi-label
    detector as five binary ones that were trained on the same patients.

    Args:
        logits: ``(..., n, C)``.
        y: ``(n, C)`` of 0 and 1.

    Returns:
        ``(..., n)`` float64.
    """
    return ((2.0 * y - 1.0) * logits.astype(np.float64)).mean(axis=-1)


def negative_loss(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Minus the binary cross-entropy in nats, averaged over the classes.

    Args:
        logits: ``(..., n, C)``.
        y: ``(n, C)`` of 0 and 1.

    Returns:
        ``(..., n)`` float64.
    """
    signed = (2.0 * y - 1.0) * logits.astype(np.float64)
    return -np.logaddexp(0.0, -signed).mean(axis=-1)


@dataclass(frozen=True)
class Worlds:
    """How each patient's statistic is distributed where it was trained on, and where not: normal in both."""

    mean_in: np.ndarray  # (P,)
    mean_out: np.ndarray  # (P,)
    variance: float  # one for everybody


def fit_worlds(shadows: np.ndarray, included: np.ndarray) -> Worlds:
    """Estimate both distributions of every patient from the shadows.

    The variance is that of the statistic around its own patient's two means, pooled over patients and shadows (N - 2
    degrees of freedom a patient). The gap between a patient's means has itself the sampling variance
    v = variance (1 / n_in + 1 / n_out); what the gaps of all patients vary beyond v is t. Each gap keeps the share
    t / (t + v) of its distance from the mean gap (empirical Bayes; with many shadows that is all of it), while the
    middle between the means stays.

    Args:
        shadows: ``(N, P)`` statistics of the shadow detectors.
        included: ``(N, P)`` bool, shadow trained on patient.

    Raises:
        ValueError: a patient is in all shadows or in none, or there is nothing to estimate a variance from.
    """
    inside = included.sum(axis=0)  # (P,)
    outside = len(included) - inside
    if (inside == 0).any() or (outside == 0).any():
        raise ValueError("every patient must be in some shadows and out of others: assign them in balance")
    mean_in = np.where(included, shadows, 0.0).sum(axis=0) / inside  # (P,)
    mean_out = np.where(included, 0.0, shadows).sum(axis=0) / outside  # (P,)
    freedom = shadows.size - 2 * shadows.shape[1]
    residual = shadows - np.where(included, mean_in, mean_out)  # (N, P)
    variance = float((residual**2).sum() / freedom) if freedom > 0 else 0.0
    if variance <= 0.0:
        raise ValueError("the shadows do not vary: at least three different ones are needed")
    gap, middle = mean_in - mean_out, (mean_in + mean_out) / 2.0  # (P,) each
    sampling = variance * (1.0 / inside + 1.0 / outside)  # (P,)
    between = max(0.0, float(gap.var() - sampling.mean()))
    gap = gap.mean() + (gap - gap.mean()) * between / (between + sampling)
    return Worlds(middle + gap / 2.0, middle - gap / 2.0, variance)


def log_likelihood_ratio(target: np.ndarray, worlds: Worlds) -> np.ndarray:
    """Score how much better "was trained on" explains each patient than "was not".

    Args:
        target: ``(P,)`` statistics of the attacked detector.
        worlds: of the same patients.

    Returns:
        ``(P,)`` natural logarithms of the likelihood ratio; positive speaks for membership.
    """
    return ((target - worlds.mean_out) ** 2 - (target - worlds.mean_in) ** 2) / (2.0 * worlds.variance)
