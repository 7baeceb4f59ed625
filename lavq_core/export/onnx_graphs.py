"""What of each kind of detector becomes an ONNX graph, and the inputs on which graph and original are compared.

A residual network is one graph from the ECG on. What reads a description (``lavq_core.signals.description``) takes it
as an input of its own: it has R peaks and median beats in it, which no graph finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lavq_core.models.combined_detector import CombinedDetector
from lavq_core.models.detector import Detector
from lavq_core.models.feature_detector import FeatureDetector, standard
from lavq_core.signals.description import SIZE, VERSION
from lavq_core.signals.leads import INDEPENDENT_LEADS
from lavq_core.signals.quality import DURATION

ECG = {0: "n", 2: "T"}
"""Dimensions of an ECG ``(n, 8, T)`` that are not fixed."""
DESCRIPTION = {0: "n"}
"""Of a description ``(n, size)``."""
_SHAPES = ((1, 1.0), (3, 0.92), (2, 1.0))  # records, and share of 10 s, that are compared


@dataclass(frozen=True)
class Graph:
    """What becomes the file."""

    module: nn.Module  # inputs to probabilities ``(n, 5)``
    inputs: dict[str, dict[int, str]]  # names, and which of their dimensions are free
    examples: Sequence[tuple[Tensor, ...]]  # inputs on which file and original are compared; the first is traced
    facts: dict[str, str]  # of the metadata, what is this kind's own


class _Probabilities(nn.Module):
    """A detector's logits turned into probabilities."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map ``(n, 8, T)`` mV, and what else the detector takes, to ``(n, 5)``."""
        return torch.sigmoid(self.detector(*inputs))


class _OfDescription(nn.Module):
    """The same of a features detector, from the description on."""

    def __init__(self, detector: FeatureDetector) -> None:
        super().__init__()
        self.head, self.centre = detector.head, detector.centre

    def forward(self, description: Tensor) -> Tensor:
        """Map ``(n, size)`` to ``(n, 5)``."""
        return torch.sigmoid(self.head(standard(description, self.centre)))


def graph_of(detector: Detector, sampling_rate: int) -> Graph:
    """Take what of a detector can be a graph."""
    if isinstance(detector, FeatureDetector):
        return _of_features(detector)
    ecgs = _ecgs(sampling_rate)
    if isinstance(detector, CombinedDetector):
        return _of_both(detector, ecgs)
    return Graph(_Probabilities(detector), {"ecg": ECG}, [(ecg,) for ecg in ecgs], {"unit": "mV"})


def _ecgs(sampling_rate: int) -> list[Tensor]:
    """Noise of an ECG's size, several batch sizes and lengths."""
    generator, examples, leads = torch.Generator().manual_seed(0), [], len(INDEPENDENT_LEADS)
    for records, share in _SHAPES:
        steps = torch.randn(records, leads, round(share * DURATION * sampling_rate), generator=generator)
        examples.append(0.1 * steps.cumsum(dim=-1) / 10.0 + 0.2 * steps)  # wander and noise, mV
    return examples


def _of_both(detector: CombinedDetector, ecgs: list[Tensor]) -> Graph:
    """Compare with all leads, and with a blank one, which leaves an ECG to the ResNet."""
    generator = torch.Generator().manual_seed(0)
    examples = [(ecg, torch.randn(len(ecg), SIZE, generator=generator) / 40.0) for ecg in ecgs]
    blank = ecgs[-1].clone()
    blank[0, 5] = 0.0
    examples.append((blank, examples[-1][1]))
    facts = {"unit": "mV", **_made(SIZE)}
    return Graph(_Probabilities(detector), {"ecg": ECG, "description": DESCRIPTION}, examples, facts)


def _of_features(detector: FeatureDetector) -> Graph:
    """Compare over descriptions near the centre, which keep their length, and far from it, which are cut to one."""
    generator, size = torch.Generator().manual_seed(0), len(detector.centre)
    examples = [
        (detector.centre + length * torch.randn(records, size, generator=generator) / size**0.5,)
        for records, length in ((1, 1.0), (3, 0.1), (2, 3.0), (1, 0.0))
    ]
    facts = _made(size)
    if detector.network:
        facts["description_made_by"] += " and, appended, lavq_core.models.pretrained.PretrainedNetwork.describe"
        facts["pretrained"] = detector.network.key
        facts["pretrained_sha256"] = detector.network.sha256
    return Graph(_OfDescription(detector), {"description": DESCRIPTION}, examples, facts)


def _made(size: int) -> dict[str, str]:
    """Say how a description is made."""
    return {
        "description_version": str(VERSION),
        "description_size": str(size),
        "description_made_by": "lavq_core.signals.description.describe",
    }
