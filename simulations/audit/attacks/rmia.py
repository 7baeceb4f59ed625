"""RMIA: Zarifzadeh, Liu and Shokri 2024, *Low-Cost High-Power Membership Inference Attacks* (ICML), section 3.

A person is likelier a member the more other people z there are whom the attacked model has gained less on: the
likelihood ratio of x, p(x | model) / p(x), has to exceed that of z by a factor gamma. p(x) is the mean over the
shadows, half of which were trained on x.
"""

from __future__ import annotations

import numpy as np

GAMMA = 2.0
"""By how much a ratio has to exceed another, as the authors take it."""


def rmia(target: np.ndarray, shadows: np.ndarray, gamma: float = GAMMA) -> np.ndarray:
    """Score every patient by the share of others whose likelihood ratio is at least ``gamma`` times smaller.

    Args:
        target: ``(P,)`` log likelihoods of the patients' labels under the attacked model (minus the loss in nats).
        shadows: ``(N, P)`` the same under every shadow.
        gamma: at least 1.

    Returns:
        ``(P,)`` in 0..1; higher for likelier members.
    """
    ratio = target - (np.logaddexp.reduce(shadows, axis=0) - np.log(len(shadows)))  # (P,) log of p(x | model) / p(x)
    ordered = np.sort(ratio)
    # With gamma of 1 everybody has a ratio as large as the own; nobody is compared with oneself.
    below = np.searchsorted(ordered, ratio - np.log(gamma), side="right") - (gamma <= 1.0)
    return below / (len(ratio) - 1)
