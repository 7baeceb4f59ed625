"""Steps in which patients are sampled: what an attacker makes of them, and tests that the sampling is Poisson's.

The accounting counts on it that nobody knows who takes part in a step: each patient with the stated chance, whoever
else does, in whatever steps before. A batch of a fixed size, an order that is gone through once an epoch, or draws that
anybody can repeat look the same in the loss and protect less.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import binom, chi2

from simulations.audit.privacy.noise_check import Finding


def sampled_ratio(ratios: np.ndarray, rate: float) -> np.ndarray:
    """Log likelihood ratio of having been trained on, where one takes part in a step with chance ``rate``.

    Args:
        ratios: ``(T, m)`` log likelihood ratios of taking part in each step.
        rate: 1 where all take part in all.

    Returns:
        ``(m,)``.
    """
    if rate == 1:
        return np.asarray(ratios.sum(axis=0))
    return np.asarray(np.logaddexp(np.log1p(-rate), np.log(rate) + ratios).sum(axis=0))


def sampling_tests(took_part: np.ndarray, rate: float, replayed: np.ndarray) -> list[Finding]:
    """Test that patients take part independently, with the stated chance, and otherwise in another training.

    Args:
        took_part: ``(T, n)`` bool.
        rate: stated.
        replayed: ``(T, n)`` bool, the same of another training of the same patients with the same seed.
    """
    if rate == 1:
        absent = int((~took_part).sum())
        return [
            Finding("sampling", float(absent == 0), f"patients are absent {absent} times, and all should take part")
        ]
    both = int((took_part & replayed).sum())
    again = f"a patient and step have been drawn in both of two trainings {both} times in {took_part.size}"
    steps, patients = took_part.sum(axis=1), took_part.sum(axis=0)
    return [
        _rate_test(took_part, rate),
        _spread_test("steps", steps, took_part.shape[1], rate),
        _spread_test("patients", patients, took_part.shape[0], rate),
        Finding("sampling repeated", _two_sided_binomial(both, took_part.size, rate**2), again),
    ]


def _rate_test(took_part: np.ndarray, rate: float) -> Finding:
    text = f"patients have taken part at a rate of {took_part.mean():.4f}, and {rate:g} is stated"
    return Finding("sampling rate", _two_sided_binomial(int(took_part.sum()), took_part.size, rate), text)


def _spread_test(of: str, counts: np.ndarray, trials: int, rate: float) -> Finding:
    """Test the spread of binomial counts ``(k,)`` of so many trials each, by a chi-square of the same two moments."""
    variance = trials * rate * (1 - rate)
    squares = float(((counts - trials * rate) ** 2).sum() / variance)
    wider = 1 + (1 - 6 * rate * (1 - rate)) / (2 * variance)  # a squared binomial's variance over a squared normal's
    degrees = len(counts) / wider
    p = 2 * min(float(chi2.cdf(squares / wider, degrees)), float(chi2.sf(squares / wider, degrees)))
    seen = np.sqrt(squares / len(counts))
    return Finding(f"sampling of {of}", min(1.0, p), f"counts of {of} spread {seen:.3f} as far as Poisson sampling's")


def _two_sided_binomial(hits: int, trials: int, chance: float) -> float:
    below, above = float(binom.cdf(hits, trials, chance)), float(binom.sf(hits - 1, trials, chance))
    return min(1.0, 2 * min(below, above))
