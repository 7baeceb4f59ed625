"""Trainers, networks and detectors of a small private run, and parts of its data, for tests."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from lavq_core.models.beat_judge import BeatJudge
from lavq_core.models.codebook import initial_codebook
from lavq_core.models.feature_detector import FeatureDetector
from lavq_core.models.networks import Networks, beat_tokens, make_networks
from lavq_core.settings import Config
from lavq_core.training.guided import GuidedBeats
from lavq_core.training.private_separator import PrivateSeparatorTrainer

CLIP, ROUNDS = 0.05, 3
EASY = 1e-9  # a noise multiplier that leaves what it is added to as it was, to nine digits


def with_sums(config: Config) -> Config:
    config = copy.deepcopy(config)
    config.privacy.codebook = "sums"
    return config


def trainer_of(config: Config, noise_multiplier: float = 1.0) -> PrivateSeparatorTrainer:
    return PrivateSeparatorTrainer(
        networks_of(config),
        initial_codebook(config.codebook, beat_tokens(config), 0),
        BeatJudge(trained_detector()),
        config,
        torch.Generator().manual_seed(0),
        noise_multiplier,
        size=10.0,
        total=10,
    )


def networks_of(config: Config) -> Networks:
    """Networks whose gate opens for some tokens of a record and not for others."""
    networks = make_networks(config, 0)
    with torch.no_grad():
        networks.separator.gate.weight.mul_(20.0)
        networks.separator.gate.bias.fill_(1.0)
    return networks


def trained_detector() -> FeatureDetector:
    detector = FeatureDetector(100)
    generator = torch.Generator().manual_seed(3)
    detector.head.weight.data = torch.randn(detector.head.weight.shape, generator=generator)
    detector.centre.copy_(0.02 * torch.randn(detector.centre.shape, generator=generator))
    return detector


def of_kind(data: GuidedBeats, abnormal: bool, count: int = 3) -> GuidedBeats:
    return data.take((data.abnormal() if abnormal else data.norm_only())[:count])


def rows_of(items: dict[str, Tensor], rows: list[int]) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in items.items()}


def length(gradient: dict[str, Tensor]) -> float:
    return float(torch.cat([value.flatten() for value in gradient.values()]).norm())


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: a[name] - b[name] for name in a}
