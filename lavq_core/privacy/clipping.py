"""Bounded contributions: every patient adds at most C to what is released, then noise of a known size is added.

A patient's contribution is the mean over that patient's items (records, and twins made from them), each clipped to norm
C: a mean of vectors no longer than C is no longer than C, however many items a patient has. Sums are divided by nothing
here; a divisor must be public.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lavq_core.privacy.noise import gaussian


def item_weights(patient: Sequence[object]) -> Tensor:
    """Weigh each item 1 over its patient's number of items: float64 ``(n,)``."""
    number: dict[object, int] = {}
    for owner in patient:
        number[owner] = number.get(owner, 0) + 1
    return torch.tensor([1.0 / number[owner] for owner in patient], dtype=torch.float64)


def clip_factors(norms: Tensor, clipping_norm: float) -> Tensor:
    """Return what each vector is multiplied by, so that none is longer than C; ``(n,)`` of norms ``(n,)``.

    A norm that is not finite gives 0: such an item takes no part.
    """
    factors = (clipping_norm / norms.clamp_min(1e-12)).clamp_max(1.0)
    return torch.where(torch.isfinite(norms), factors, torch.zeros_like(factors))


def clipped_sum(vectors: Tensor, weights: Tensor, clipping_norm: float) -> Tensor:
    """Sum clipped vectors ``(n, d)``, weighted by ``item_weights``: float64 ``(d,)``; a patient changes C at most."""
    vectors = vectors.double()
    factors = clip_factors(vectors.norm(dim=1), clipping_norm) * weights
    return (torch.nan_to_num(vectors, posinf=0.0, neginf=0.0) * factors[:, None]).sum(dim=0)


def release(total: Tensor, clipping_norm: float, noise_multiplier: float) -> Tensor:
    """Add the mechanism's noise to a sum of which a patient changes at most C: float64 on the CPU."""
    return total.double().cpu() + gaussian(tuple(total.shape), noise_multiplier * clipping_norm)
