"""What a features detector says of a median beat alone, with a gradient: the judge of edits in private training.

A detector of fixed features gives no gradient, as its description is no function of PyTorch's. But the first part of
the description is the median beat itself, squashed, and edits are made of median beats. So the judge reads that part
and knows nothing of the others, which stay at the federation's mean. It holds no weights of its own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lavq_core.models.feature_detector import FeatureDetector, standard
from lavq_core.signals.description import BEAT_SAMPLES, BEAT_SCALE


class BeatJudge(nn.Module):
    """Scores median beats by the head of a features detector.

    Args:
        detector: as broadcast; it is not changed.
    """

    centre: Tensor
    head: Tensor

    def __init__(self, detector: FeatureDetector) -> None:
        super().__init__()
        self.register_buffer("head", detector.head.weight.detach().clone())
        self.register_buffer("centre", detector.centre.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Map median beats ``(B, 8, W)`` in mV to logits ``(B, 5)``."""
        beat = torch.tanh(x.unflatten(-1, (BEAT_SAMPLES, -1)).mean(-1) / BEAT_SCALE).flatten(1)  # (B, 768)
        beat = beat / math.sqrt(beat.shape[1])
        rest = self.centre.new_zeros(self.centre.shape[0] - beat.shape[1]).expand(len(beat), -1)
        apart = torch.cat([beat - self.centre[: beat.shape[1]], rest], dim=1)
        return F.linear(standard(apart, torch.zeros_like(self.centre)), self.head)
