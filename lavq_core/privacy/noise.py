"""Noise and sampling of private mechanisms; their randomness comes from the operating system, never from a run's seed.

A round that is trained twice must draw other noise: with the same, the difference of two updates would be free of it.
So nothing here takes a seed or a generator.
"""

from __future__ import annotations

import secrets

import numpy as np
import torch
from torch import Tensor

_SUMMANDS = 4  # Gaussians to one: floating-point gaps then tell nothing (Holohan & Braghin 2021, section 4)


def _generator() -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=secrets.randbits(128)))


def secret_generator() -> torch.Generator:
    """Make a CPU generator for a private training's other draws: which record, what is masked, what a twin is asked.

    From a known seed they would be a function of who takes part, so that one patient more would change what is drawn
    for all the others. Unknown, they are independent from patient to patient, and each bounds only its own.
    """
    return torch.Generator().manual_seed(secrets.randbits(63))


def gaussian(shape: tuple[int, ...], std: float) -> Tensor:
    """Draw independent normal noise of standard deviation ``std``: float64 on the CPU."""
    drawn = _generator().standard_normal((_SUMMANDS, *shape)).sum(axis=0) / np.sqrt(_SUMMANDS)
    return torch.from_numpy(np.asarray(std * drawn))


def poisson_sample(patients: int, rate: float) -> Tensor:
    """Draw which patients take part in a step, each with chance ``rate`` on its own: int64 ``(m,)``, m may be 0."""
    if rate == 1:
        return torch.arange(patients)
    return torch.from_numpy(np.flatnonzero(_generator().random(patients) < rate))
