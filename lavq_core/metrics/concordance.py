"""Does a person's score rise with the disease? Concordance within people, and a paired test of two ways of scoring."""

from __future__ import annotations

import numpy as np

_EXACT = 16  # differences up to which every flip of signs is counted
_FLIPS = 20_000
_AT_ONCE = 1_000


def concordant(abnormal: np.ndarray, norm: np.ndarray) -> np.ndarray:
    """Tell in which pairs the abnormal record scores above the NORM one: 1, 0, or .5 for a tie.

    Its mean over all pairs is the concordance (the Mann-Whitney statistic); .5 is chance.

    Args:
        abnormal, norm: scores of the two records of each pair, of any equal shape.
    """
    return (np.sign(np.asarray(abnormal, dtype=float) - np.asarray(norm, dtype=float)) + 1.0) / 2.0


def sign_flip_p(differences: np.ndarray, seed: int = 0) -> float:
    """Two-sided p of paired differences having mean zero: Fisher's permutation test (1935).

    From *The Design of Experiments*, chapter 3.

    Under the null hypothesis each person's difference might as well have the other sign. All flips are counted for up
    to 16 differences other than zero, else 20,000 random ones, the observed one among them, so that p is never 0.

    Args:
        differences: ``(n,)``, one a person; NaN is left out.
        seed: of the random flips.

    Returns:
        1 where no difference is other than zero.
    """
    values = np.asarray(differences, dtype=float)
    values = values[~np.isnan(values) & (values != 0.0)]
    if len(values) == 0:
        return 1.0
    observed = abs(values.sum()) * (1.0 - 1e-12)  # the same sum added in another order counts as equal
    if len(values) <= _EXACT:
        signs = 1.0 - 2.0 * ((np.arange(2 ** len(values))[:, None] >> np.arange(len(values))) & 1)  # (2^n, n)
        return float((np.abs(signs @ values) >= observed).mean())
    rng, extreme = np.random.default_rng(seed), 1
    for _ in range(_FLIPS // _AT_ONCE):
        signs = 1.0 - 2.0 * rng.integers(0, 2, size=(_AT_ONCE, len(values)))
        extreme += int((np.abs(signs @ values) >= observed).sum())
    return extreme / (_FLIPS + 1)
