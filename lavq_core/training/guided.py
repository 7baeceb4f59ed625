"""ECGs with their reports: what separator and editor train on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lavq_core.data.labels import SUPERCLASSES

NORM = SUPERCLASSES.index("NORM")


@dataclass
class GuidedEcgs:
    """A set of ECGs, their labels, report tokens and beat phases."""

    x: Tensor  # (n, 8, T) mV
    y: Tensor  # (n, 5) 0 or 1
    memory: Tensor  # (n, L, width)
    mask: Tensor  # (n, L) bool
    phases: Tensor  # (n, N) int64 beat phase of each token

    def take(self, rows: Tensor, device: torch.device) -> GuidedEcgs:
        """Copy some rows to a device."""
        parts = (self.x, self.y, self.memory, self.mask, self.phases)
        return GuidedEcgs(*(part[rows].to(device) for part in parts))

    def __len__(self) -> int:
        return len(self.x)

    def abnormal(self) -> Tensor:
        """Rows with any superclass but NORM."""
        return (self.y.sum(1) > self.y[:, NORM]).nonzero().flatten()

    def norm_only(self) -> Tensor:
        """Rows that are NORM and nothing else."""
        return ((self.y[:, NORM] == 1) & (self.y.sum(1) == 1)).nonzero().flatten()


def class_weights(y: Tensor) -> Tensor:
    """How much each record says about each abnormal superclass; ``(B, 5)`` to ``(B, 5)``, NORM is 0.

    One over the squared number of the record's abnormal labels: a record with a single disease shows that disease, one
    with three shows each of them mixed with two others.
    """
    abnormal = y.clone()
    abnormal[:, NORM] = 0.0
    return abnormal / abnormal.sum(1, keepdim=True).clamp_min(1.0).square()
