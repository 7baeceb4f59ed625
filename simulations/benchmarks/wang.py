"""The detector's reference: the residual network that is usually taken for PTB-XL, with GroupNorm.

Written from its descriptions: three residual blocks of two convolutions (Wang, Yan and Oates 2017, *Time Series
Classification from Scratch with Deep Neural Networks*, section II C) with the sizes of ``resnet1d_wang`` in Strodthoff
et al. 2021 (*Deep Learning for ECG Analysis*): 128 channels throughout, kernels of 7, 5 and 3, time halved twice, mean
and largest value pooled, one hidden layer. GroupNorm stands for BatchNorm, as in every model here: 473,349 weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.models.blocks import group_norm
from lavq_core.signals.leads import LEADS

_WIDTH = 128
_STRIDES = (1, 2, 2)


class _Block(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(_WIDTH, _WIDTH, 5, stride, padding=2, bias=False),
            group_norm(_WIDTH),
            nn.ReLU(),
            nn.Conv1d(_WIDTH, _WIDTH, 3, padding=1, bias=False),
            group_norm(_WIDTH),
        )
        shortcut = [nn.Conv1d(_WIDTH, _WIDTH, 1, stride, bias=False), group_norm(_WIDTH)] if stride > 1 else []
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class WangResNet(nn.Module):
    """Scores superclasses from twelve leads."""

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Conv1d(len(LEADS), _WIDTH, 7, padding=3, bias=False)
        self.features = nn.Sequential(stem, group_norm(_WIDTH), nn.ReLU(), *(_Block(stride) for stride in _STRIDES))
        self.head = nn.Sequential(
            nn.LayerNorm(2 * _WIDTH),
            nn.Dropout(0.25),
            nn.Linear(2 * _WIDTH, _WIDTH),
            nn.ReLU(),
            nn.LayerNorm(_WIDTH),
            nn.Dropout(0.5),
            nn.Linear(_WIDTH, len(SUPERCLASSES)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ECGs ``(B, 12, T)`` in mV to logits ``(B, 5)``."""
        h = self.features(x)  # (B, 128, T / 4)
        return self.head(torch.cat([h.amax(dim=-1), h.mean(dim=-1)], dim=1))
