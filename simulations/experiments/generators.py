"""Trained generators of twins, by the same code as any run: one site for a centralised one, four for a federation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lavq_core.config import compose
from lavq_core.models.codebook import CodebookState
from lavq_core.models.networks import Networks, make_networks
from lavq_core.models.stored import load_networks, load_shared_model
from lavq_core.settings import Config
from simulations.experiments.jobs import federate
from simulations.launch import quoted

GENERATOR_FOLDS = (1, 2, 3, 4, 5)  # train generators; 6 to 8 fit the judges, 9 and 10 are judged
ONE_SITE = ("partition.scheme=iid", "federation.sites=1", "federation.min_sites=1")


@dataclass(frozen=True)
class Generator:
    """What makes twins."""

    networks: Networks  # eval mode, CPU
    codebook: CodebookState
    config: Config

    @property
    def codes(self) -> Tensor:
        """Codes ``(K, D)``."""
        return self.codebook["codes"]

    def untrained(self) -> Generator:
        """The same before training: what the judges say of a generator that learned nothing."""
        return Generator(make_networks(self.config, self.config.run.seed), self.codebook, self.config)


def train_generator(overrides: Sequence[str], folder: Path, seed: int, site: str = "") -> Generator:
    """Train on the generator's folds and load the result; a finished run in ``folder`` is not repeated.

    Args:
        overrides: of the configuration.
        folder: run folder.
        seed: of the run.
        site: whose networks, where not all are shared.
    """
    folds = ",".join(map(str, GENERATOR_FOLDS))
    complete = [*overrides, f"data.train_folds=[{folds}]", f"run.seed={seed}", f"run.dir={quoted(folder)}"]
    torch.set_num_threads(1)
    config, run = compose(complete), federate(complete)
    networks, _ = load_networks(run, site)
    return Generator(networks, load_shared_model(run).codebook, config)
