"""What Gaussian mechanisms cost together, and the noise that a budget asks for.

Unit: one patient of one site, added or removed. Reported is Opacus' PRV accountant (Gopi et al. 2021, *Numerical
Composition of Differential Privacy*); its RDP accountant (Mironov 2017) bounds the same from above by another way, and
a figure beyond that bound is refused. Opacus' GDP accountant is not used: it understates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lavq_core.errors import ConfigError

_LEAST, _MOST = 1e-2, 1e4  # scales of noise between which the solver looks
_TOLERANCE = 2e-3  # relative, of the noise that the solver finds; always on the private side
_REFINEMENTS = 5
_ELASTICITY = 0.6  # of noise to epsilon, about the least for many steps; few sampled steps overshoot, which is seen


@dataclass(frozen=True)
class Mechanism:
    """A sum over patients, each clipped to norm C, plus Gaussian noise; taken some steps.

    ``noise_multiplier`` is the noise's standard deviation over C. Every patient takes part in a step with chance
    ``sample_rate``, independently of the others (Poisson sampling); 1 means that all take part in every step, which is
    the plain Gaussian mechanism.
    """

    name: str
    noise_multiplier: float
    sample_rate: float = 1.0
    steps: int = 1

    def __post_init__(self) -> None:
        if not (self.noise_multiplier > 0 and math.isfinite(self.noise_multiplier)):
            raise ValueError(f"{self.name}: a noise multiplier must be positive and finite")
        if not 0 < self.sample_rate <= 1 or self.steps < 1:
            raise ValueError(f"{self.name}: a sample rate lies above 0 and up to 1, and steps are at least 1")


def epsilon_of(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """Return the epsilon at ``delta`` of all mechanisms together; 0 for none.

    Raises:
        ArithmeticError: the accountants contradict each other; nothing may be released on such a figure.
    """
    from opacus.accountants import PRVAccountant  # imported here: it takes a second

    if not mechanisms:
        return 0.0
    accountant = PRVAccountant()
    accountant.history = _history(mechanisms)
    with np.errstate(divide="ignore"):  # at the edge of its grid, of sampled mechanisms
        epsilon, bound = float(accountant.get_epsilon(delta)), rdp_epsilon(mechanisms, delta)
    if not math.isfinite(epsilon) or not 0.0 <= epsilon <= bound * 1.01 + 0.02:
        raise ArithmeticError(f"PRV accountant says epsilon {epsilon:.4g}, but RDP bounds it by {bound:.4g}")
    return epsilon


def rdp_epsilon(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """Bound the same epsilon from above by Renyi divergences."""
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = _history(mechanisms)
    return float(accountant.get_epsilon(delta))


def scaled_to(mechanisms: Sequence[Mechanism], epsilon: float, delta: float) -> list[Mechanism]:
    """Scale the noise of all mechanisms alike, until they cost at most ``epsilon`` together, and hardly less.

    RDP, which is quick, finds a scale that is private and a little too large; the reported accountant then takes back
    what can be taken.

    Raises:
        ConfigError: no noise keeps so many steps within the budget.
    """
    low, high = _LEAST, _MOST
    if rdp_epsilon(_scaled(mechanisms, high), delta) > epsilon:
        raise ConfigError(f"no noise keeps {sum(m.steps for m in mechanisms)} steps within epsilon {epsilon:g}")
    while high / low > 1 + _TOLERANCE:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if rdp_epsilon(_scaled(mechanisms, middle), delta) > epsilon else (low, middle)
    low, spent = 0.0, epsilon_of(_scaled(mechanisms, high), delta)
    for _ in range(_REFINEMENTS):
        less = max(high * (spent / epsilon) ** _ELASTICITY, math.sqrt(low * high))
        if less > high / (1 + _TOLERANCE):
            break
        after = epsilon_of(_scaled(mechanisms, less), delta)
        if after > epsilon:
            low = less
        else:
            high, spent = less, after
    return _scaled(mechanisms, high)


def _scaled(mechanisms: Sequence[Mechanism], scale: float) -> list[Mechanism]:
    return [replace(item, noise_multiplier=item.noise_multiplier * scale) for item in mechanisms]


def _history(mechanisms: Sequence[Mechanism]) -> list[tuple[float, float, int]]:
    """Opacus' form; full-batch mechanisms are one Gaussian together, exactly, which keeps the composition short."""
    full = sum(item.steps / item.noise_multiplier**2 for item in mechanisms if item.sample_rate == 1)
    sampled: dict[tuple[float, float], int] = {}
    for item in mechanisms:
        if item.sample_rate < 1:
            key = (item.noise_multiplier, item.sample_rate)
            sampled[key] = sampled.get(key, 0) + item.steps
    whole = [(1 / math.sqrt(full), 1.0, 1)] if full else []
    return whole + [(noise, rate, steps) for (noise, rate), steps in sampled.items()]
