"""A detector whose only trained part is a linear head on a fixed description of the ECG.

The description (``lavq_core.signals.description``) costs no privacy, so the whole budget goes into ``5 (SIZE + 1)``
weights. Where epsilon is small this beats every network trained privately here. It keeps the interface of ``Detector``:
ECGs in, logits out, and a state dict that can be averaged.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.models.detector import Detector
from lavq_core.signals.description import SHORTEST, SIZE, describe

NORM = 1.2  # no described ECG is longer
_GAIN = 3.0  # of what is left after the centre is taken away: most records then reach the norm
_BIAS = 0.3  # length of the constant feature


class FeatureDetector(Detector):
    """Scores superclasses from a fixed description; starts from weights of zero.

    Attributes:
        centre: ``(SIZE,)`` mean description of the federation's patients; zero until the first round has found it.
        head: weights ``(5, SIZE + 1)``, the last of a constant feature.
    """

    centre: Tensor

    def __init__(self, sampling_rate: int) -> None:
        super().__init__()
        self.sampling_rate = sampling_rate
        self.register_buffer("centre", torch.zeros(SIZE))
        self.head = nn.Linear(SIZE + 1, len(SUPERCLASSES), bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map ECGs ``(B, 8, T)`` in mV, T at least 2 s, to logits ``(B, 5)``; no gradient reaches the ECGs.

        A shorter stretch cannot be described, so it is repeated.
        """
        short = math.ceil(SHORTEST * self.sampling_rate / x.shape[-1])
        described = describe(x.detach().repeat(1, 1, short).cpu().float().numpy(), self.sampling_rate)
        return self.head(self.standard(torch.from_numpy(described).to(x.device)))

    @torch.no_grad()
    def scores(self, described: Tensor) -> Tensor:
        """Probabilities ``(B, 5)`` of descriptions ``(B, SIZE)``."""
        return torch.sigmoid(self.head(self.standard(described)))

    def last_layers(self) -> list[nn.Parameter]:
        """Weights of the head."""
        return [*self.head.parameters()]

    def standard(self, described: Tensor) -> Tensor:
        """Centre descriptions ``(B, SIZE)``, bound their norm and add the constant: ``(B, SIZE + 1)``."""
        apart = _GAIN * (described - self.centre)
        apart = apart * (NORM / apart.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1.0)
        return torch.cat([apart, torch.full_like(apart[:, :1], _BIAS)], dim=1)
