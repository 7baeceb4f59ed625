"""A detector of two parts whose logits are averaged: a ResNet on the waveform, a perceptron on the fixed description.

The description (``lavq_core.signals.description``) says what a textbook measures; the network finds what it does not.
Each part learns by its own loss, as the members of an ensemble do (Lakshminarayanan et al., NeurIPS 2017), so neither
leaves the work to the other, and a separator can be judged by the ResNet alone, which passes a gradient to the ECG.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.models.detector import Detector
from lavq_core.models.resnet import ResNet
from lavq_core.settings import DetectorConfig
from lavq_core.signals.description import SHORTEST, SIZE, describe

_SCALE = 40.0  # of a description, most of whose numbers lie within .05 of 0
_DROPPED_IN, _DROPPED = 0.1, 0.3  # of a description's numbers, and of what the perceptron makes of them


class CombinedDetector(Detector):
    """Scores superclasses from a waveform and its description.

    Args:
        config: sizes; ``hidden`` is the perceptron's.
        sampling_rate: Hz.
    """

    def __init__(self, config: DetectorConfig, sampling_rate: int) -> None:
        super().__init__()
        self.sampling_rate = sampling_rate
        self.resnet = ResNet(config, sampling_rate)
        self.perceptron = nn.Sequential(
            nn.Dropout(_DROPPED_IN),
            nn.Linear(SIZE, config.hidden),
            nn.ReLU(),
            nn.Dropout(_DROPPED),
            nn.Linear(config.hidden, len(SUPERCLASSES)),
        )

    def forward(self, x: Tensor, described: Tensor | None = None) -> Tensor:
        """Map ECGs to logits ``(B, 5)``.

        A description knows no blank leads: an ECG with one is left to the ResNet, which has learned to do without.

        Args:
            x: ``(B, 8, T)`` mV, T at least 2 s.
            described: ``(B, SIZE)`` of the same ECGs, where it is known; else they are described here.
        """
        waveform, description = self.branches(x, self.describe(x) if described is None else described)
        blank = (x == 0).all(dim=-1).any(dim=-1, keepdim=True)  # (B, 1)
        return torch.where(blank, waveform, (waveform + description) / 2.0)

    def branches(self, x: Tensor, described: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(B, 5)`` of either part; arguments as in ``forward``."""
        return self.resnet(x), self.perceptron(_SCALE * described)

    def describe(self, x: Tensor) -> Tensor:
        """Describe ECGs ``(n, 8, T)`` in mV: ``(n, SIZE)`` on their device, without gradient; some ms each."""
        shortest = round(SHORTEST * self.sampling_rate)
        if x.shape[-1] < shortest:
            raise ValueError(f"an ECG of {x.shape[-1]} samples cannot be described: {shortest} or more are needed")
        return torch.from_numpy(describe(x.detach().cpu().float().numpy(), self.sampling_rate)).to(x.device)

    @property
    def differentiable(self) -> nn.Module:
        """The ResNet."""
        return self.resnet

    def last_layers(self) -> list[nn.Parameter]:
        """Weights of the ResNet's last block and head, and of the perceptron's last layer."""
        return [*self.resnet.last_layers(), *self.perceptron[-1].parameters()]
