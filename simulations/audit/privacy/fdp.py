"""One run audited against a Gaussian trade-off instead of one epsilon: a diagnostic, never a verdict.

Mahloujifar, Melis and Chaudhuri 2024, *Auditing f-Differential Privacy in One Run*. A bound from one epsilon wastes
what a Gaussian mechanism gives away at every threshold at once. If the training is *assumed* to be one (mu-GDP; Dong,
Roth and Su 2022, *Gaussian Differential Privacy*), the same guesses support a larger figure; where it is not Gaussian,
the figure means nothing.
"""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from simulations.audit.privacy.one_run import Guesses, largest_refuted


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon at ``delta`` of a mu-GDP mechanism, exact (Balle and Wang 2018, theorem 8; Dong et al., corollary 1)."""

    def excess(epsilon: float) -> float:
        return float(ndtr(mu / 2 - epsilon / mu) - math.exp(epsilon) * ndtr(-mu / 2 - epsilon / mu)) - delta

    if mu <= 0.0 or excess(0.0) <= 0.0:
        return 0.0
    return float(brentq(excess, 0.0, mu * mu / 2.0 + mu * math.sqrt(2.0 * math.log(1.0 / delta))))


def refutes_gdp(guesses: Guesses, mu: float, confidence: float) -> bool:
    """Tell whether so many right guesses are too unlikely under mu-GDP.

    With p_i the chance of exactly i right guesses of r, theorem 3.2 says for every j that
    R_{j+1} <= F(H_j), where R_j = sum_{i >= j} i p_i / m, H_j = sum_{i >= j} (r - i) p_i / m and F gives the largest
    power at a level, here Phi(Phi^-1(x) + mu). Suppose P[v or more right] is 1 - confidence: put all of it on v and go
    down, at each j with the least H_j that the bound allows. All chances together are 1, so R_0 + H_0 must be r / m;
    where even the least passes that, the supposition was wrong and the chance is smaller.
    """
    m, r, v = guesses.canaries, guesses.made, guesses.correct
    tail = 1.0 - confidence
    right, wrong = tail * v / m, tail * (r - v) / m  # R_v, H_v
    for j in range(v - 1, -1, -1):
        least = max(wrong, float(ndtr(ndtri(min(right, 1.0)) - mu)))
        right, wrong = right + j / (r - j) * (least - wrong), least
        if right + wrong > r / m:
            return True
    return False


def mu_lower_bound(guesses: Guesses, confidence: float) -> float:
    """Return the largest mu of a Gaussian trade-off that so many right guesses refute; 0 where none is."""
    return largest_refuted(lambda mu: refutes_gdp(guesses, mu, confidence))
