"""Exact tests of released noise: given what was released and what it is without noise, is the rest the noise promised?

A bound from canaries needs a leak of some size before it shows: half of the noise, at epsilon 1, escapes it. Who knows
the data need not guess. What is left after the clean sums are taken away is noise and nothing else, some 10^6 numbers
of a known normal distribution, so its scale is known to a thousandth and anything that repeats in it stands out.

Every test has an exact or all but exact distribution under the claim. All tests of one audit together raise a false
alarm with chance ``FALSE_ALARM`` at most (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, chi2, kstest, norm

FALSE_ALARM = 1e-4
_SAMPLE = 200_000  # values whose distribution is compared with the normal one


@dataclass(frozen=True)
class Finding:
    """One test."""

    name: str
    p: float  # chance of something so far from the claim where the claim is true
    text: str  # what was seen, with its number
    blind: bool = False  # at these sizes it would not have failed even where what it looks for is there

    def fails(self, tests: int) -> bool:
        """Tell whether it is too unlikely, as one of so many tests."""
        return not self.p >= FALSE_ALARM / tests  # a value that is not a number fails


@dataclass(frozen=True)
class NoiseScale:
    """Standard deviation of what was seen over what was promised, with a 95 % interval."""

    ratio: float
    low: float
    high: float


def noise_scale(noise: np.ndarray) -> NoiseScale:
    """Estimate the scale of noise that is given in units of the promised."""
    n, squares = noise.size, float((noise**2).sum())
    ends = chi2.ppf([0.975, 0.025], n)
    return NoiseScale(np.sqrt(squares / n), *np.sqrt(squares / ends))


def size_test(deviations: Sequence[float]) -> Finding:
    """Test released numbers of patients, each less the true one and in units of its noise: too far, or too near."""
    squares = float(np.square(deviations).sum())
    shown = ", ".join(f"{value:.3g}" for value in deviations)
    return Finding(
        "size", _two_sided(squares, len(deviations)), f"released numbers of patients deviate by {shown} sigma"
    )


def scale_test(name: str, noise: np.ndarray) -> Finding:
    """Test the scale of all noise of one kind (chi-square)."""
    scale = noise_scale(noise)
    interval = f"95 % interval {scale.low:.4f} to {scale.high:.4f}"
    text = f"noise of the {name} is {scale.ratio:.4f} of what the plan promises ({interval})"
    return Finding(f"{name} scale", _two_sided(float((noise**2).sum()), noise.size), text)


def normal_test(name: str, noise: np.ndarray) -> Finding:
    """Test that the noise is normal (Kolmogorov-Smirnov): Laplace or uniform noise of one scale protects otherwise."""
    values = noise.ravel()
    values = values[:: -(-values.size // _SAMPLE)]
    found = kstest(values, "norm")
    return Finding(
        f"{name} distribution", float(found.pvalue), f"noise of the {name} is off normal by {found.statistic:.4f}"
    )


def each_test(name: str, noise: np.ndarray, axis: int) -> Finding:
    """Test the scale of every step (axis 0) or every coordinate (axis 1) of ``(T, d)`` by itself."""
    squares = np.sort((noise**2).sum(axis=1 - axis))
    least, most = float(squares[0]), float(squares[-1])
    degrees = noise.shape[1 - axis]
    p = 2 * len(squares) * min(chi2.cdf(least, degrees), chi2.sf(most, degrees))
    low, high = np.sqrt([least / degrees, most / degrees])
    what = ("steps", "coordinates")[axis]
    return Finding(
        f"{name} {what}", min(1.0, float(p)), f"over the {what}, noise is {low:.3f} to {high:.3f} of the promised"
    )


def parts_test(name: str, noise: np.ndarray, parts: Mapping[str, int]) -> Finding:
    """Test the scale of every part of the coordinates of ``(T, d)`` by itself: names and lengths, one after another."""
    ends = np.cumsum(list(parts.values()))[:-1]
    found = [(_two_sided(float((part**2).sum()), part.size), part) for part in np.split(noise, ends, axis=1)]
    worst = int(np.argmin([p for p, _ in found]))
    p, part = found[worst]
    text = f"noise of {list(parts)[worst]} in the {name} is {noise_scale(part).ratio:.4f} of what the plan promises"
    return Finding(f"each part of the {name}", min(1.0, len(found) * p), text)


def repeat_test(name: str, first: np.ndarray, second: np.ndarray | None = None) -> Finding:
    """Test that no noise repeats: correlations of rows ``(T, d)`` among each other, or with another training's.

    The correlation r of two independent normal vectors has r^2 ~ Beta(1/2, (d - 1)/2). One large one betrays a repeated
    draw. All of them a little too large betray noise of fewer dimensions than the sum has.
    """
    ours = _unit(first)
    found = ours @ (ours if second is None else _unit(second)).T
    r2 = found[np.triu_indices(len(found), 1)] ** 2 if second is None else found.ravel() ** 2
    if r2.size == 0:
        return Finding(f"{name} repeated", 1.0, "there is one step only")
    d = first.shape[1]
    largest = min(1.0, r2.size * float(beta.sf(min(1.0, r2.max()), 0.5, (d - 1) / 2)))
    together = float(chi2.sf(d * r2.sum(), r2.size))
    text = f"largest correlation between {name} is {np.sqrt(r2.max()):.3f}, mean square {d * r2.mean():.2f} of chance"
    return Finding(f"{name} repeated", min(1.0, 2 * min(largest, together)), text)


def sum_tests(noise: np.ndarray, clean: Mapping[str, np.ndarray]) -> list[Finding]:
    """Test that each group of patients is in the released sums as often as it should be: once.

    Args:
        noise: ``(T, d)`` in units of its standard deviation.
        clean: by group, its clipped sums ``(T, d)`` in the same unit; where the group counts k times, the noise still
            holds k - 1 of them.
    """
    findings = []
    for name, sums in clean.items():
        energy = float((sums**2).sum())
        excess = float((noise * sums).sum()) / max(energy, 1e-300)
        p = 2 * float(norm.sf(abs(excess) * np.sqrt(energy)))
        error = 1 / np.sqrt(max(energy, 1e-300))
        text = f"{name} count {1 + excess:.2f} times instead of once (standard error {error:.2f})"
        findings.append(Finding(f"sum of {name}", min(1.0, p), text))
    return findings


def failures(findings: Sequence[Finding]) -> list[str]:
    """What failed, in words."""
    return [f"{found.text} (p {found.p:.1g})" for found in findings if found.fails(len(findings))]


def _two_sided(squares: float, degrees: int) -> float:
    return min(1.0, 2 * min(float(chi2.cdf(squares, degrees)), float(chi2.sf(squares, degrees))))


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
