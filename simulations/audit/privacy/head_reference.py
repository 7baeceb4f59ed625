"""The private head's sums once more, from their definition: what an auditor holds against what was released.

Written for itself: of the audited code only ``feature_detector.standard`` is used, on one record at a time, so that
nothing of another patient can enter a record's description. Whatever training does with a batch (weights of records,
clipping, sampling, divisors) is not taken from there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lavq_core.models.feature_detector import NORM, standard
from lavq_core.settings import Config
from lavq_core.training.head_training import PatientItems


@dataclass(frozen=True)
class Head:
    """What a step does, but for the data."""

    clipping_norm: float  # C
    positive: Tensor  # (5,) or (1,) weight of a positive label
    lr: float
    momentum: float
    averaging: float  # memory of the running mean, share of a round's steps
    steps: int
    rate: float  # chance that a patient takes part in a step

    @classmethod
    def of(cls, config: Config) -> Head:
        """Read a run's."""
        training = config.detector_training
        positive = torch.tensor(training.positive_weights or [1.0], dtype=torch.float64)
        clip = config.privacy.clipping_norm
        rate = training.epochs / training.steps
        return cls(clip, positive, training.lr, training.momentum, training.averaging, training.steps, rate)

    def running_mean(self, weights: Tensor) -> Tensor:
        """Average the weights ``(steps, ...)`` after each step as the round does before anything leaves."""
        if self.averaging <= 0:
            return weights[-1]
        kept = 1.0 - 1.0 / max(1.0, self.averaging * self.steps)
        mean = weights[0]
        for one in weights[1:]:
            mean = kept * mean + (1.0 - kept) * one
        return mean


def shares(items: PatientItems) -> Tensor:
    """One over the number of records of each record's patient: ``(n,)`` float64."""
    _, which, number = np.unique(items.owner.numpy(), return_inverse=True, return_counts=True)
    return torch.from_numpy(1.0 / number[which])


def centre_sum(items: PatientItems) -> Tensor:
    """Sum over patients of the mean of their described records, each clipped to NORM: ``(SIZE,)`` float64."""
    x = items.x.double()
    factor = (NORM / x.norm(dim=1).clamp_min(1e-12)).clamp_max(1.0)
    return ((shares(items) * factor)[:, None] * x).sum(dim=0)


@torch.no_grad()
def standardised(x: Tensor, centre: Tensor) -> Tensor:
    """What the head sees of described records ``(n, SIZE)``: ``(n, SIZE + 1)`` float64."""
    one_by_one = [standard(row, centre) for row in x.split(1)]
    return torch.cat(one_by_one).double() if len(x) else x.new_zeros(0, len(centre) + 1)


def clipped_errors(seen: Tensor, y: Tensor, weights: Tensor, head: Head) -> Tensor:
    """The factor of each record's description in its clipped gradient of the cross-entropy.

    Args:
        seen: ``(n, SIZE + 1)``, see ``standardised``.
        y: ``(n, 5)``.
        weights: ``(T, 5, SIZE + 1)``, one set a step.
        head: C and weights of labels.

    Returns:
        ``(T, n, 5)``: a record's gradient is the outer product of its row and its description.
    """
    logits = torch.einsum("nd,tcd->tnc", seen, weights)
    y = y.double()
    error = torch.where(y > 0, head.positive, torch.ones(())) * (torch.sigmoid(logits) - y)
    norms = error.norm(dim=2) * seen.norm(dim=1)  # (T, n)
    return error * (head.clipping_norm / norms.clamp_min(1e-12)).clamp_max(1.0)[..., None]


def gradient_sums(seen: Tensor, y: Tensor, share: Tensor, weights: Tensor, head: Head) -> Tensor:
    """Sum of the patients' clipped gradients at each of T weights: ``(T, 5, SIZE + 1)``.

    ``share`` is what each record counts, ``(n,)`` or, where that differs from step to step, ``(T, n)``.
    """
    return torch.einsum("tnc,nd->tcd", clipped_errors(seen, y, weights, head) * share[..., None], seen)
