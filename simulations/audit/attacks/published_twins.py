"""Twins as an attacker has them: finished signals, in which median beats are found as in any ECG (``find_beats``)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lavq_core.models.beat_input import BeatInput
from lavq_core.models.codebook import CodebookState
from lavq_core.models.networks import Networks
from lavq_core.models.prior import available_diseases, draw_statements
from lavq_core.models.twins import Patients, Twins, request_twins
from lavq_core.settings import Config
from lavq_core.signals.beats import find_beats
from lavq_core.text.statements import named, requests


@dataclass(frozen=True)
class PublishedTwins:
    """Twins as the attacker has them: n finished signals, each with the request that it answers."""

    beats: BeatInput  # median beats as found in the signals; covariates and valid tokens of the patients
    memory: Tensor  # (n, L, width) tokens of the requested statements
    mask: Tensor  # (n, L) bool

    @property
    def median(self) -> np.ndarray:
        """Median beats ``(n, 8, W)`` mV."""
        return self.beats.x.numpy()

    @classmethod
    def of(cls, twins: Twins, patients: Patients, memory: Tensor, mask: Tensor) -> PublishedTwins:
        """Find the beats of finished twins of ``patients`` as in any ECG."""
        median = find_beats(twins.signal.numpy(), patients.sampling_rate).median
        return cls(replace(patients.input, x=torch.from_numpy(median)), memory, mask)


def published_twins(
    networks: Networks, codebook: CodebookState, config: Config, patients: Patients, seed: int
) -> PublishedTwins:
    """Make a twin of each patient, of diseases that the federation has seen in equal shares, as a site does.

    Args:
        networks: in eval mode.
        codebook: the run's shared state; its ``requests`` say which statements to ask for.
        config: the run's.
        patients: whose content the twins have. To attack the editor and nothing else, take the same people, whom no
            run was trained on, for the run and its shadows.
        seed: of requests and draws.

    Raises:
        ValueError: the federation has not seen any disease.
    """
    generator = torch.Generator().manual_seed(seed)
    known = codebook["requests"]
    diseases = available_diseases(known)
    if len(diseases) == 0:
        raise ValueError("the codebook has counted no disease: its run has trained no editor")
    classes = diseases[torch.randperm(len(patients), generator=generator) % len(diseases)]
    wanted = named(draw_statements(known, classes, generator))
    made = request_twins(networks, codebook["codes"], patients, wanted, config, config.twins.strength, generator)
    asked = requests(wanted, config.text)
    return PublishedTwins.of(made, patients, asked.tokens, asked.mask)
