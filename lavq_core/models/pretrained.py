"""A network trained on public ECGs: frozen, its logits join the fixed description of a features detector.

It is a run of ``detector.kind=resnet`` or ``combined`` (or its export), named by the sha256 of its weights. Every site
has a copy of its own, so it never travels. Differential privacy says nothing about the ECGs that it was trained on:
none of their patients may be a patient of a site, or that site's epsilon does not hold for them. For everybody else it
is a constant, as the fixed description is (private heads on public features: Tramer & Boneh, ICLR 2021, *Differentially
Private Learning Needs Better Features*, section 4).
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from lavq_core.config import load_config, save_config
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import ConfigError, RunError
from lavq_core.models.detector import Detector, build_detector
from lavq_core.runs.artefact import load_artefact
from lavq_core.runs.layout import RunFolder
from lavq_core.settings import Config, DetectorConfig

VERSION = 1  # raised whenever the description by the same weights changes
_LOGIT = 3.0  # at which a logit is squashed
_BATCH = 256


@dataclass(frozen=True, eq=False)
class PretrainedNetwork:
    """A frozen network, and what it is called."""

    network: Detector  # eval mode, CPU
    sha256: str  # of its file of weights

    @property
    def key(self) -> str:
        """Name of the weights and of how they are used."""
        return f"{VERSION}-{self.sha256[:16]}"

    @property
    def size(self) -> int:
        """Numbers in a description."""
        return len(SUPERCLASSES)

    @torch.no_grad()
    def describe(self, signals: np.ndarray) -> np.ndarray:
        """Describe ECGs ``(n, 8, T)`` in mV by squashed logits: ``(n, 5)`` float32 of norm at most 1.

        What the network pools before its head added nothing to these on fold 9, and cost noise.
        """
        logits = torch.cat([self.network(rows.float()) for rows in torch.from_numpy(signals).split(_BATCH)])
        return (torch.tanh(logits / _LOGIT) / self.size**0.5).numpy()

    def __deepcopy__(self, memo: object) -> PretrainedNetwork:
        """Stay one: a running mean of the head's weights copies the head alone."""
        return self


def weights_sha256(run: RunFolder) -> str:
    """Return the sha256 of a run's detector, by which a pre-trained network is named.

    Raises:
        RunError: the run has no final model.
    """
    file = _weights(run)
    if not file.is_file():
        raise RunError(
            f"no model in {run.model}: detector.pretrained takes a finished run of detector.kind=resnet or combined"
        )
    return hashlib.sha256(file.read_bytes()).hexdigest()


def pretrained_network(config: DetectorConfig, sampling_rate: int) -> PretrainedNetwork | None:
    """Load ``detector.pretrained``; None where there is none.

    Raises:
        ConfigError: it is not named by its sha256, is no network, or reads another sampling rate.
        RunError: it is missing or damaged, or is another one than the settings name.
    """
    if not config.pretrained:
        return None
    if not config.pretrained_sha256:
        raise ConfigError(
            "detector.pretrained needs detector.pretrained_sha256, so that every site has the same: give the sha256 of "
            "its model/detector.safetensors"
        )
    return _load(Path(config.pretrained), config.pretrained_sha256, sampling_rate)


@lru_cache(maxsize=4)
def _load(folder: Path, sha256: str, sampling_rate: int) -> PretrainedNetwork:
    run = RunFolder.open(folder)
    if (found := weights_sha256(run)) != sha256:
        raise RunError(
            f"the network in {folder} has sha256 {found}, and detector.pretrained_sha256 is {sha256}: get the one that "
            "this run was started with"
        )
    theirs, (parts, _) = load_config(run.config), load_artefact(run.model)
    if theirs.detector.kind == "features":
        raise ConfigError(f"{folder} is a run of detector.kind=features: it takes a resnet, or a combined detector")
    if theirs.data.sampling_rate != sampling_rate:
        raise ConfigError(
            f"the network in {folder} reads {theirs.data.sampling_rate} Hz and data.sampling_rate is {sampling_rate}: "
            "train one at that rate"
        )
    network = build_detector(theirs.detector, sampling_rate, seed=0)
    network.load_state_dict(parts["detector"])
    return PretrainedNetwork(network.eval().requires_grad_(False), sha256)


def keep_pretrained(config: Config, run: RunFolder) -> str:
    """Copy ``detector.pretrained`` into a run folder, which then is whole without it.

    Returns:
        Where it lies now, for the run's own configuration; empty where there is none.

    Raises:
        ConfigError, RunError: see ``pretrained_network``.
    """
    if pretrained_network(config.detector, config.data.sampling_rate) is None:
        return ""
    source, kept = RunFolder(Path(config.detector.pretrained)), run.pretrained
    if kept.model.is_dir() and weights_sha256(kept) == config.detector.pretrained_sha256:
        return str(kept.root)
    theirs = load_config(source.config)
    theirs.run.dir = theirs.data.dir = theirs.data.cache_dir = ""  # of the machine that trained
    shutil.rmtree(kept.root, ignore_errors=True)
    shutil.copytree(source.model, kept.model)
    save_config(theirs, kept.config)
    return str(kept.root)


def _weights(run: RunFolder) -> Path:
    return run.model / "detector.safetensors"
