"""What every detector is: ECGs in, logits of the five superclasses out, and weights that can be averaged.

``resnet`` learns its own features; ``feature_detector`` has fixed ones and suits private training;
``combined_detector`` has both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from lavq_core.settings import DetectorConfig


class Detector(nn.Module, ABC):
    """Scores superclasses from ECGs of 8 independent leads."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Map ECGs ``(B, 8, T)`` in mV to logits ``(B, 5)`` in the order of ``SUPERCLASSES``."""

    @property
    def differentiable(self) -> nn.Module:
        """The part whose logits pass a gradient to the ECG: all of it, where nothing else is said."""
        return self

    @abstractmethod
    def last_layers(self) -> list[nn.Parameter]:
        """Return the weights that fine-tuning on one patient may move."""


def build_detector(config: DetectorConfig, sampling_rate: int, seed: int) -> Detector:
    """Make a detector of ``detector.kind``, whose weights depend on the seed alone."""
    from lavq_core.models.combined_detector import CombinedDetector
    from lavq_core.models.feature_detector import FeatureDetector
    from lavq_core.models.pretrained import pretrained_network
    from lavq_core.models.resnet import ResNet

    if config.kind == "features":
        return FeatureDetector(sampling_rate, pretrained_network(config, sampling_rate))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return (CombinedDetector if config.kind == "combined" else ResNet)(config, sampling_rate)
