"""Lead algebra: twelve leads carry eight independent ones.

The limb leads are differences of three electrode potentials, so Einthoven's law and Goldberger's definitions fix four
of the six: III = II - I, aVR = -(I + II)/2, aVL = I - II/2, aVF = II - I/2. Models read and write the eight independent
leads; deriving the others makes the law hold by construction. Every function takes numpy arrays and torch tensors.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""The canonical order of the internal signal (12, T)."""

INDEPENDENT_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
"""The order of what models read and write (8, T)."""

INDEPENDENT_INDEX = tuple(LEADS.index(lead) for lead in INDEPENDENT_LEADS)
"""Rows of the independent leads in (12, T)."""

Signal = TypeVar("Signal", np.ndarray, torch.Tensor)

_BY_NAME = {lead.casefold(): lead for lead in LEADS}


def canonical_lead(name: str) -> str | None:
    """Return the canonical spelling of a lead name in any case (``"AVR"`` is ``"aVR"``), None when it is no lead."""
    return _BY_NAME.get(name.strip().casefold())


def to_independent(signal: Signal) -> Signal:
    """Take the eight independent leads: (..., 12, T) -> (..., 8, T)."""
    _require_leads(signal, len(LEADS))
    return signal[..., list(INDEPENDENT_INDEX), :]


def to_twelve(signal: Signal) -> Signal:
    """Derive the other four leads: (..., 8, T) -> (..., 12, T)."""
    _require_leads(signal, len(INDEPENDENT_LEADS))
    limb = derive_limb(signal[..., 0:1, :], signal[..., 1:2, :])  # (..., 6, T)
    if isinstance(signal, torch.Tensor):
        return torch.cat([limb, signal[..., 2:, :]], dim=-2)
    return np.concatenate([limb, signal[..., 2:, :]], axis=-2)


def derive_limb(lead_i: Signal, lead_ii: Signal) -> Signal:
    """Derive the six limb leads from I and II: two of (..., 1, T) -> (..., 6, T)."""
    rows = [
        lead_i,
        lead_ii,
        lead_ii - lead_i,  # III, Einthoven
        -(lead_i + lead_ii) / 2,  # aVR, Goldberger
        lead_i - lead_ii / 2,  # aVL
        lead_ii - lead_i / 2,  # aVF
    ]
    if isinstance(lead_i, torch.Tensor):
        return torch.cat(rows, dim=-2)
    return np.concatenate(rows, axis=-2)


def einthoven_residual(signal: Signal) -> Signal:
    """Return how far the stored limb leads are from the law, in mV: (..., 12, T) -> (...).

    It is the largest absolute difference over III, aVR, aVL, aVF and time. Rounding to 1 uV leaves about 2 uV; more
    than 50 uV means swapped leads or a unit error.
    """
    _require_leads(signal, len(LEADS))
    expected = derive_limb(signal[..., 0:1, :], signal[..., 1:2, :])  # (..., 6, T)
    difference: Signal = signal[..., 2:6, :] - expected[..., 2:6, :]
    if isinstance(difference, torch.Tensor):
        return difference.abs().amax(dim=(-2, -1))
    return np.asarray(np.abs(difference).max(axis=(-2, -1)))


def _require_leads(signal: np.ndarray | torch.Tensor, count: int) -> None:
    if signal.ndim < 2 or signal.shape[-2] != count:
        raise ValueError(f"expected a signal of shape (..., {count}, T), got {tuple(signal.shape)}")
