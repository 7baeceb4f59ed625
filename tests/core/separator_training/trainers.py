"""Trainers of small separators, for tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lavq_core.models.codebook import CodebookState, initial_codebook
from lavq_core.models.detector import build_detector
from lavq_core.models.networks import beat_tokens, make_networks
from lavq_core.settings import Config
from lavq_core.training.guided import GuidedBeats
from lavq_core.training.separator_training import SeparatorTrainer

CPU = torch.device("cpu")
N = 24


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def codebook_of(config: Config) -> CodebookState:
    return initial_codebook(config.codebook, beat_tokens(config), 0)


def judge_of(config: Config) -> nn.Module:
    return build_detector(config.detector, 100, 1).eval().requires_grad_(False)


def trainer_of(
    config: Config, judge: nn.Module | None = None, seed: int = 0, total: int = 1000, done: int = 100
) -> SeparatorTrainer:
    return SeparatorTrainer(make_networks(config, 0), codebook_of(config), judge, config, rng(seed), total, done)


def weights(trainer: SeparatorTrainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.networks.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def take(data: GuidedBeats, rows: Tensor) -> GuidedBeats:
    return data.take(rows, CPU)


def batch_of(records: GuidedBeats, count: int = 4) -> tuple[GuidedBeats, GuidedBeats]:
    return take(records, records.abnormal()[:count]), take(records, records.norm_only()[:count])
