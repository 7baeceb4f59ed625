"""What the networks see of patients: median beats, covariates, and which part of the frame is theirs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from torch import Tensor

from lavq_core.signals.beats import Beats

_TYPICAL_RR, _RR_SPREAD = 0.85, 0.33  # s and log ratio: PTB-XL's median, and a third of its logarithm's range
_TYPICAL_AGE, _AGE_SPREAD, _OLDEST = 60.0, 20.0, 90.0  # years; PTB-XL writes 300 for over 89


@dataclass
class BeatInput:
    """A set of ECGs in the beat frame, as tensors."""

    x: Tensor  # (n, 8, W) mV, median beats
    covariates: Tensor  # (n, 3): log RR interval, age, sex, each about 0 +- 1; 0 where unknown
    valid: Tensor  # (n, N) float 0 or 1, tokens that belong to the beat

    @classmethod
    def of(cls, beats: Beats, age: np.ndarray, sex: np.ndarray, stride: int) -> Self:
        """Describe beats of patients.

        Args:
            beats: of n ECGs.
            age: ``(n,)`` years, NaN where unknown.
            sex: ``(n,)`` 0 or 1, as the database codes it; NaN where unknown.
            stride: samples a token.
        """
        rr = np.log(np.asarray(beats.rr, dtype=np.float64) / _TYPICAL_RR) / _RR_SPREAD
        years = (np.minimum(np.asarray(age, dtype=np.float64), _OLDEST) - _TYPICAL_AGE) / _AGE_SPREAD
        columns = np.stack([rr, years, np.asarray(sex, dtype=np.float64) - 0.5], axis=1)  # (n, 3)
        covariates = torch.from_numpy(np.nan_to_num(columns).astype(np.float32))
        valid = torch.from_numpy(beats.valid).unflatten(1, (-1, stride)).all(dim=-1)  # (n, N, stride) to (n, N)
        return cls(torch.from_numpy(beats.median), covariates, valid.float())

    def take(self, rows: Tensor, device: torch.device | None = None) -> Self:
        """Copy some rows, to a device if one is given."""
        return type(self)(*(getattr(self, item.name)[rows].to(device) for item in fields(self)))

    def __len__(self) -> int:
        return len(self.x)
