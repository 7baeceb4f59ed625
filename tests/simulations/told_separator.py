"""A separator that answers from tables, and records it knows by number: for tests of the attacks on models."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lavq_core.data.labels import SUPERCLASSES, diagnostic_statements
from lavq_core.models.separator import Separation
from lavq_core.training.guided import GuidedBeats
from simulations.audit.attacks.people import People

MI = SUPERCLASSES.index("MI")


class Told:
    """A separator that answers record i, which is named by its first sample, from tables."""

    threshold = 0.5

    def __init__(self, probability: Tensor, latents: Tensor) -> None:
        self.probability, self.latents = probability, latents

    def __call__(self, x: Tensor, covariates: Tensor, valid: Tensor, memory: Tensor, mask: Tensor) -> Separation:
        rows = x[:, 0, 0].long()
        probability = self.probability[rows] * valid
        return Separation(probability, (probability > self.threshold).float(), self.latents[rows])


def records(classes: list[int], valid: Tensor | None = None) -> GuidedBeats:
    """Records of 2 tokens with one superclass each; record i has the value i everywhere."""
    n = len(classes)
    y = torch.nn.functional.one_hot(torch.tensor(classes), len(SUPERCLASSES)).float()
    blank, off = torch.zeros(n, 1, 4), torch.zeros(n, 1, dtype=torch.bool)
    x = torch.arange(n).float()[:, None, None].expand(n, 8, 8).contiguous()
    return GuidedBeats(
        x=x, covariates=torch.zeros(n, 3), valid=torch.ones(n, 2) if valid is None else valid, y=y, memory=blank,
        mask=off, asked=blank, asked_mask=off, statements=torch.zeros(n, len(diagnostic_statements())),
        places=torch.zeros(n, 1, dtype=torch.int64),
    )  # fmt: skip


def people(beats: GuidedBeats, owner: list[int], count: int) -> People:
    return People(beats, np.array(owner), np.arange(len(beats)), count)


def angled(degrees: list[list[float]]) -> Tensor:
    """Latents of some lengths in these directions."""
    radians = torch.tensor(degrees) * math.pi / 180.0
    return 3.0 * torch.stack([radians.cos(), radians.sin()], dim=-1)
