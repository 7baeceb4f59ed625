"""A detector whose only trained part is a linear head on a fixed description of the ECG.

The description (``lavq_core.signals.description``) costs no privacy, so the whole budget goes into the head's weights.
Where epsilon is small this beats every network trained privately here. It keeps the interface of ``Detector``: ECGs in,
logits out, and a state dict that can be averaged. The logits of a network trained on public ECGs can join what is
described (``lavq_core.models.pretrained``).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.models.detector import Detector
from lavq_core.models.pretrained import PretrainedNetwork
from lavq_core.signals.description import SHORTEST, SIZE, describe

NORM = 1.2  # no described ECG is longer
_GAIN = 3.0  # of what is left after the centre is taken away: most records then reach the norm
_BIAS = 0.3  # length of the constant feature


class FeatureDetector(Detector):
    """Scores superclasses from a fixed description, SIZE numbers and those of the network; starts from weights of zero.

    Attributes:
        network: frozen, trained on public ECGs, whose logits are described too; None: the fixed description alone.
            It is no part of the state dict: it never travels, nor is it trained.
        centre: ``(size,)`` mean description of the federation's patients; zero until the first round has found it.
        head: weights ``(5, size + 1)``, the last of a constant feature.
    """

    centre: Tensor

    def __init__(self, sampling_rate: int, network: PretrainedNetwork | None = None) -> None:
        super().__init__()
        self.sampling_rate = sampling_rate
        self.network = network
        size = SIZE + (network.size if network else 0)
        self.register_buffer("centre", torch.zeros(size))
        self.head = nn.Linear(size + 1, len(SUPERCLASSES), bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map ECGs ``(B, 8, T)`` in mV, T at least 2 s, to logits ``(B, 5)``; no gradient reaches the ECGs.

        A shorter stretch cannot be described, so it is repeated.
        """
        short = math.ceil(SHORTEST * self.sampling_rate / x.shape[-1])
        signals = x.detach().repeat(1, 1, short).cpu().float().numpy()
        described = describe(signals, self.sampling_rate)
        if self.network:
            described = np.concatenate([described, self.network.describe(signals)], axis=1)
        return self.head(self.standard(torch.from_numpy(described).to(x.device)))

    @torch.no_grad()
    def scores(self, described: Tensor) -> Tensor:
        """Probabilities ``(B, 5)`` of descriptions ``(B, size)``."""
        return torch.sigmoid(self.head(self.standard(described)))

    @torch.no_grad()
    def start_from(self, other: FeatureDetector) -> None:
        """Take over the weights that another head has for the fixed description.

        Those of this detector's network stay as they are: on the ECGs that it was trained on, which a public head may
        have seen too, a network is surer than on any others.
        """
        self.head.weight[:, :SIZE] = other.head.weight[:, :SIZE]
        self.head.weight[:, -1] = other.head.weight[:, -1]

    def last_layers(self) -> list[nn.Parameter]:
        """Weights of the head."""
        return [*self.head.parameters()]

    def standard(self, described: Tensor) -> Tensor:
        """Centre descriptions, bound their norm and add the constant, see ``standard``."""
        return standard(described, self.centre)


def standard(described: Tensor, centre: Tensor) -> Tensor:
    """Turn descriptions ``(B, size)`` into what a head reads, ``(B, size + 1)``, of norm at most NORM and the constant.

    However long a description is, one ECG is bounded alike: noise that hides it does not depend on the size.
    """
    apart = _GAIN * (described - centre)
    apart = apart * (NORM / apart.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1.0)
    return torch.cat([apart, torch.full_like(apart[:, :1], _BIAS)], dim=1)
