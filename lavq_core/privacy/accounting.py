"""What Gaussian mechanisms cost together, and the noise that a budget asks for.

Unit: one patient of one site, added or removed. Reported is Opacus' PRV accountant (Gopi et al. 2021, *Numerical
Composition of Differential Privacy*); its RDP accountant (Mironov 2017) bounds the same from above by another way, and
a figure beyond that bound is refused. Opacus' GDP accountant is not used: it understates.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from lavq_core.errors import ConfigError

_LEAST, _MOST = 1e-2, 1e4  # scales of noise between which the solver looks
_TOLERANCE = 4e-3  # relative, of the noise that the solver finds; always on the private side
_RENYI_SLACK = 0.85  # of the noise that RDP asks for, less of which is never enough: it overstates by a tenth or so


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
    if not mechanisms:
        return 0.0
    epsilon, bound = _prv_epsilon(tuple(_history(mechanisms)), delta), rdp_epsilon(mechanisms, delta)
    if not math.isfinite(epsilon) or not 0.0 <= epsilon <= bound * 1.01 + 0.02:
        raise ArithmeticError(f"PRV accountant says epsilon {epsilon:.4g}, but RDP bounds it by {bound:.4g}")
    return epsilon


@lru_cache(maxsize=256)
def _prv_epsilon(history: tuple[tuple[float, float, int], ...], delta: float) -> float:
    from opacus.accountants import PRVAccountant  # imported here: it takes a second

    accountant = PRVAccountant()
    accountant.history = list(history)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # log of 0 at a rate of 1, which it means
        return float(accountant.get_epsilon(delta))


def rdp_epsilon(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """Bound the same epsilon from above by Renyi divergences."""
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = _history(mechanisms)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that another order might be tighter: a bound it is all the same
        return float(accountant.get_epsilon(delta))


def scaled_to(mechanisms: Sequence[Mechanism], epsilon: float, delta: float) -> list[Mechanism]:
    """Scale the noise of all mechanisms alike, until they cost at most ``epsilon`` together, and hardly less.

    RDP, which is quick, finds a scale that is private and a little too large; the reported accountant then takes back
    what can be taken.

    Raises:
        ConfigError: no noise keeps so many steps within the budget.
    """
    if rdp_epsilon(_scaled(mechanisms, _MOST), delta) > epsilon:
        raise ConfigError(f"no noise keeps {sum(m.steps for m in mechanisms)} steps within epsilon {epsilon:g}")
    cautious = _least_scale(lambda scale: rdp_epsilon(_scaled(mechanisms, scale), delta) <= epsilon, _LEAST, _MOST)
    exact = _least_scale(
        lambda scale: epsilon_of(_scaled(mechanisms, scale), delta) <= epsilon, _RENYI_SLACK * cautious, cautious
    )
    return _scaled(mechanisms, exact)


def _least_scale(enough: Callable[[float], bool], low: float, high: float) -> float:
    """Bisect for the least scale that is enough, from above; ``high`` is."""
    while high / low > 1 + _TOLERANCE:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


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
