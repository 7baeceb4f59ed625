"""A detector: a 1-D ResNet with GroupNorm that reads 8 leads and scores the five superclasses.

After the residual networks of Strodthoff et al., *Deep Learning for ECG Analysis* (2021), made small and without
BatchNorm, whose running statistics neither federation nor differential privacy can carry.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.models.blocks import group_norm
from lavq_core.models.detector import Detector
from lavq_core.settings import DetectorConfig
from lavq_core.signals.leads import INDEPENDENT_LEADS


class _ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut; halves time."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(channels_in, channels_out, kernel, stride=2, padding=kernel // 2, bias=False)
        self.first_norm = group_norm(channels_out)
        self.second = nn.Conv1d(channels_out, channels_out, kernel, padding=kernel // 2, bias=False)
        self.second_norm = group_norm(channels_out)
        self.shortcut = nn.Conv1d(channels_in, channels_out, 1, bias=False)
        self.pool = nn.AvgPool1d(2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C_in, T)`` to ``(B, C_out, ceil(T / 2))``."""
        y = torch.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        return torch.relu(y + self.shortcut(self.pool(x)))


class ResNet(Detector):
    """Scores superclasses from an ECG of any length.

    Args:
        config: sizes.
        sampling_rate: Hz; at 500 Hz the stem strides five times as far, so that the blocks see the same time scale.
    """

    def __init__(self, config: DetectorConfig, sampling_rate: int = 100) -> None:
        super().__init__()
        scale = sampling_rate // 100
        kernel = 2 * (5 * scale) + 1
        self.stem = nn.Conv1d(
            len(INDEPENDENT_LEADS), config.width, kernel, stride=2 * scale, padding=kernel // 2, bias=False
        )
        self.stem_norm = group_norm(config.width)
        widths = [config.width + (config.width // 2) * stage for stage in range(config.blocks + 1)]
        self.blocks = nn.Sequential(*(_ResidualBlock(a, b, config.kernel) for a, b in pairwise(widths)))
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(2 * widths[-1], len(SUPERCLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Map ECGs ``(B, 8, T)`` in mV to logits ``(B, 5)`` in the order of ``SUPERCLASSES``."""
        h = self.blocks(torch.relu(self.stem_norm(self.stem(x))))  # (B, C, T')
        pooled = torch.cat([h.mean(dim=-1), h.amax(dim=-1)], dim=1)  # (B, 2C)
        return self.head(self.dropout(pooled))

    def last_layers(self) -> list[nn.Parameter]:
        """Weights of the last residual block and the head."""
        return [*self.blocks[-1].parameters(), *self.head.parameters()]
