"""Single rounds at one site, from what a server would send, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lavq_core.data.labels import (
    SUPERCLASSES,
    diagnostic_statements,
    public_statements,
    superclass_of,
)
from lavq_core.models.codebook import initial_codebook
from lavq_core.models.detector import build_detector
from lavq_core.models.networks import beat_tokens, make_networks
from lavq_core.runs.artefact import load_artefact
from lavq_core.runs.layout import rounds_in
from lavq_core.settings import Config
from lavq_core.training.site_data import SiteData
from lavq_core.training.site_round import SharedState, SiteUpdate, train_round

POSITIONS = np.arange(0, 520, 12)
BEATLESS = 180  # of these records, NORM-only and in a training fold, but without enough beats of one shape
S = len(diagnostic_statements())


def seen_in(*diseases: str) -> Tensor:
    """Counts ``(C, S)``: the federation has seen one record with each statement of these superclasses."""
    known, classes = torch.zeros(len(SUPERCLASSES), S), superclass_of(public_statements())
    for column, code in enumerate(diagnostic_statements()):
        if classes[code] in diseases:
            known[SUPERCLASSES.index(classes[code]), column] = 1.0
    return known


def broadcast(config: Config, known: Tensor | None = None) -> SharedState:
    """What a server sends in a first round; the federation may have seen diseases before."""
    detector = build_detector(config.detector, config.data.sampling_rate, config.run.seed)
    codebook = initial_codebook(config.codebook, beat_tokens(config), config.run.seed)
    if known is not None:
        codebook["requests"] += known
    networks = make_networks(config, config.run.seed).shared(config.federation.share)
    return SharedState(dict(detector.state_dict()), codebook, networks)


def play(site: SiteData, folder: Path, number: int = 1, rounds: int = 4, known: Tensor | None = None) -> SiteUpdate:
    return train_round(site, folder, broadcast(site.config, known), number, rounds)


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def on_disk(folder: Path) -> dict[str, Tensor]:
    """The newest networks of a site."""
    rounds = rounds_in(folder)
    return load_artefact(rounds[max(rounds)])[0]["networks"]


def of(name: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if key.startswith(f"{name}.")}
