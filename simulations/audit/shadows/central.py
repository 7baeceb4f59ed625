"""Shadows of a detector whose run is not at hand: trained centrally, on pooled records.

Their recipe (``train_detector``) is the sites' own, but they know neither hospitals nor twins. That is the limit of the
attack: a federation's detector differs from these in more than its training set.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from lavq_core.errors import ConfigError
from lavq_core.models.detector import build_detector
from lavq_core.settings import Config, DetectorConfig, DetectorTrainingConfig
from lavq_core.training.detector_training import train_detector
from simulations.audit.cohort import Cohort
from simulations.audit.shadows.training import FORMAT, Answers


@dataclass(frozen=True)
class CentralRecipe:
    """All that a central shadow depends on beside the patients."""

    detector: DetectorConfig
    training: DetectorTrainingConfig
    sampling_rate: int  # Hz
    shadows: int
    epochs: int
    seed: int
    device: str

    @classmethod
    def of_model(cls, config: Config, device: torch.device) -> CentralRecipe:
        """Take a model's own detector and training; as many epochs as its sites have taken in all rounds.

        Raises:
            ConfigError: it is a features detector, which is trained in another way.
        """
        if config.detector.kind == "features":
            raise ConfigError("a features detector has no central recipe: audit its run with `lavq audit --run RUN`")
        epochs = max(1, round(config.detector_training.epochs * config.federation.rounds))
        return cls(
            config.detector,
            config.detector_training,
            config.data.sampling_rate,
            config.audit.shadows,
            epochs,
            config.run.seed,
            device.type,
        )

    def key(self, cohort: Cohort) -> str:
        """See ``Recipe``."""
        settings = {name: value for name, value in asdict(self).items() if name != "device"}
        text = json.dumps({"format": FORMAT, "patients": cohort.digest(), **settings}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def train(self, cohort: Cohort, included: np.ndarray, index: int, folder: Path) -> Answers:
        """See ``Recipe``; a shadow has initial weights of its own."""
        seed = zlib.crc32(f"{self.seed}/audit/shadow/{index}".encode())
        cuda = [torch.cuda.current_device()] if self.device == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(seed)  # dropout draws from the process's own generator
            model = build_detector(self.detector, self.sampling_rate, seed).to(self.device)
            generator = torch.Generator().manual_seed(seed)
            train_detector(
                model, cohort.training_data(included), self.training, self.sampling_rate, self.epochs, generator
            )
        return {"logits": cohort.logits(model)}
