"""Gradients of one patient each, clipped and summed: what private training of a network may look at.

Any loss of *one* item (a record, or a twin made from one) does: nothing of another patient can enter it, as it is never
shown one. Gradients are taken by ``torch.func`` (``vmap`` of ``grad``), some items at a time, so that no hook can be
forgotten and no layer needs a rule of its own. A patient with several items contributes the mean of their gradients,
which is then clipped as a whole: the patient is what is clipped, not the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lavq_core.privacy.clipping import clip_factors
from lavq_core.privacy.item_convolution import QuickConvolutions
from lavq_core.privacy.noise import gaussian

Weights = Mapping[str, Tensor]
Items = Mapping[str, Tensor]  # each (n, ...), one row an item
Loss = Callable[[Weights, Items], Tensor]
"""Loss of one item: rows come without their first dimension."""

_ROUNDING = 1e-5  # relative, of norms in float32: clipping keeps that far below C


def clipped_gradients(
    loss: Loss, weights: Weights, items: Items, owner: Tensor, clipping_norm: float, at_once: int = 32
) -> dict[str, Tensor]:
    """Sum the patients' clipped gradients; one patient more or less changes the sum by at most C.

    Args:
        loss: of one item, by weights and item.
        weights: what gradients are taken of; all of them together are clipped as one vector.
        items: ``(n, ...)`` each; n may be 0.
        owner: ``(n,)`` int64, whose item it is, any numbers.
        clipping_norm: C.
        at_once: items whose gradients are held at a time (a patient of more items is taken in one piece).

    Returns:
        By name, float64 in the weights' shapes. An item without a finite gradient leaves its patient out.
    """
    total = {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in weights.items()}
    fixed = {name: value.detach() for name, value in weights.items()}
    per_item = vmap(grad(loss), in_dims=(None, 0), randomness="different")
    for rows in _whole_patients(owner, at_once):
        # The fused attention has no rule for a batch of gradients and would fall back to a loop.
        with sdpa_kernel(SDPBackend.MATH), QuickConvolutions():
            found = per_item(fixed, {name: value[rows] for name, value in items.items()})
        for name, value in _clipped(found, owner[rows], clipping_norm).items():
            total[name] += value.double().cpu()
    return total


def noisy_mean(
    total: Mapping[str, Tensor], clipping_norm: float, noise_multiplier: float, divisor: float
) -> dict[str, Tensor]:
    """Add a step's noise to ``clipped_gradients`` and divide by a public number: float32, by name.

    A step that nobody took part in is released like any other: its sum of zeros gets the same noise.
    """
    return {
        name: ((value + gaussian(tuple(value.shape), noise_multiplier * clipping_norm)) / divisor).float()
        for name, value in total.items()
    }


def _whole_patients(owner: Tensor, at_once: int) -> list[Tensor]:
    """Deal items out to pieces of about ``at_once`` that part no patient: rows of each."""
    pieces: list[list[int]] = []
    last = None
    for row in owner.argsort(stable=True).tolist():
        whose = int(owner[row])
        if not pieces or (whose != last and len(pieces[-1]) >= at_once):
            pieces.append([])
        pieces[-1].append(row)
        last = whose
    return [torch.tensor(piece) for piece in pieces]


def _clipped(found: Mapping[str, Tensor], owner: Tensor, clipping_norm: float) -> dict[str, Tensor]:
    """Average items' gradients ``(m, ...)`` by patient, clip each patient, and sum."""
    patients, which, number = owner.unique(return_inverse=True, return_counts=True)
    if len(patients) < len(owner):
        share = 1.0 / number[which]  # (m,)
        found = {
            name: value.new_zeros(len(patients), *value.shape[1:]).index_add_(
                0, which.to(value.device), value * share.to(value).view(-1, *[1] * (value.dim() - 1))
            )
            for name, value in found.items()
        }
    squares = torch.stack([value.flatten(1).square().sum(1) for value in found.values()])  # (names, patients)
    norms = squares.sum(0).double().sqrt()
    factors = clip_factors(norms, clipping_norm * (1 - _ROUNDING)).float()  # (patients,)
    if not bool(torch.isfinite(norms).all()):
        found = {name: torch.nan_to_num(value, posinf=0.0, neginf=0.0) for name, value in found.items()}
    return {name: torch.tensordot(factors, value, dims=1) for name, value in found.items()}
