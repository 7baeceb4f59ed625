"""Lead algebra: twelve leads carry eight independent ones.

The limb leads are differences of three electrode potentials, so Einthoven's law and Goldberger's definitions fix four
of the six: III = II - I, aVR = -(I + II)/2, aVL = I - II/2, aVF = II - I/2. Models read and write the eight independent
leads; deriving the others makes the law hold by construction. Every function takes numpy arrays and torch tensors.
"""

from __future__ import annotations

import re
from typing import TypeVar

import numpy as np
import torch

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""The canonical order of the internal signal (12, T)."""

INDEPENDENT_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
"""The order of what models read and write (8, T)."""

INDEPENDENT_INDEX = tuple(LEADS.index(lead) for lead in INDEPENDENT_LEADS)
"""Rows of the independent leads in (12, T)."""

CHEST_INDEX = tuple(LEADS.index(f"V{i}") for i in range(1, 7))
"""Rows of the chest leads in (12, T)."""

Signal = TypeVar("Signal", np.ndarray, torch.Tensor)

_BY_NAME = {lead.casefold(): lead for lead in LEADS}
_NAME = re.compile(r"(?:(?:lead|ecg|ekg|mdc_ecg_lead)[\s_:-]*)?(\w+)(?:\s*\(.*\))?", re.IGNORECASE)
_LIMB = 6  # limb leads come first in ``LEADS``
_OF_I_AND_II = np.array([[1, 0], [0, 1], [-1, 1], [-0.5, -0.5], [1, -0.5], [-0.5, 1]])  # (6, 2)


def canonical_lead(name: str) -> str | None:
    """Return the canonical spelling of a lead name, None when it is no lead.

    Any case, and with the words that recorders put around it: ``"AVR"``, ``"Lead aVR"``, ``"ECG aVR"`` and
    ``"MDC_ECG_LEAD_aVR"`` are all ``"aVR"``. ``"-aVR"`` is another lead: the same one turned round.
    """
    match = _NAME.fullmatch(name.strip())
    return _BY_NAME.get(match[1].casefold()) if match else None


def known_leads(present: np.ndarray) -> np.ndarray:
    """Tell which leads a recording gives, directly or by computation: (..., 12) bool -> (..., 12) bool.

    Any two limb leads give the other four; nothing gives a chest lead but its own electrode.
    """
    known = np.array(present, dtype=bool)
    known[..., :_LIMB] |= known[..., :_LIMB].sum(axis=-1, keepdims=True) >= 2
    return known


def complete_limb(signal: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Compute the limb leads that are absent from the first two that are there.

    Args:
        signal: (12, T) mV; rows of absent leads may hold anything.
        present: (12,) bool; at least two limb leads.

    Returns:
        (12, T), a copy; leads that were there are as they were.
    """
    absent = np.flatnonzero(~present[:_LIMB])
    if len(absent) == 0:
        return signal.copy()
    rows = np.flatnonzero(present[:_LIMB])[:2]
    if len(rows) < 2:
        raise ValueError("two limb leads are needed to compute the others")
    first_two = np.linalg.solve(_OF_I_AND_II[rows], signal[rows].astype(np.float64))  # (2, T), leads I and II
    limb = derive_limb(first_two[:1], first_two[1:])  # (6, T)
    completed = signal.copy()
    completed[absent] = limb[absent]
    return completed


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
