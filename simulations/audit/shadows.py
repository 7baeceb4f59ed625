"""Shadow detectors: what the attacked detector might have been, with training sets that the attacker knows.

Each shadow is trained on all records of a random half of the run's patients, members and non-members alike, by the
sites' own recipe (``train_detector``), but centrally, on the pooled records, without twins and from weights of its own.
That is the limit of the attack: a federation's detector differs from its shadows in more than its training set.

A shadow depends on the recipe, the patients and its number alone, so the same shadows come out of any number of
processes, and a finished one is kept on disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from lavq_core.errors import ConfigError
from lavq_core.models.detector import build_detector
from lavq_core.settings import Config, DetectorConfig, DetectorTrainingConfig
from lavq_core.training.detector_training import train_detector
from simulations.audit.cohort import Cohort, cohort_logits
from simulations.audit.pool import cores, train_in_parallel

FORMAT = 1  # raised whenever a shadow of the same settings would come out otherwise, so that older ones are not found


@dataclass(frozen=True)
class ShadowRecipe:
    """All that a shadow depends on beside the patients."""

    detector: DetectorConfig
    training: DetectorTrainingConfig
    sampling_rate: int  # Hz
    shadows: int  # even, at least 4
    epochs: int
    seed: int
    device: str  # cpu or cuda

    @classmethod
    def of_run(cls, config: Config, device: torch.device) -> ShadowRecipe:
        """Take a run's own detector and training.

        Raises:
            ConfigError: a number of shadows or epochs that the attack cannot use.
        """
        audit = config.audit
        if audit.shadows < 4 or audit.shadows % 2:
            raise ConfigError(
                f"audit.shadows={audit.shadows}: give an even number of at least 4, so that every patient is in half "
                "of the shadows and a variance can be estimated"
            )
        if audit.epochs < 1:
            raise ConfigError(f"audit.epochs={audit.epochs}: a shadow needs at least 1 epoch")
        return cls(
            config.detector,
            config.detector_training,
            config.data.sampling_rate,
            audit.shadows,
            audit.epochs,
            config.run.seed,
            device.type,
        )

    def key(self, cohort: Cohort) -> str:
        """Name these shadows of these patients; where they were computed does not enter."""
        settings = {name: value for name, value in asdict(self).items() if name != "device"}
        text = json.dumps({"format": FORMAT, "patients": cohort.digest(), **settings}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Shadows:
    """What all shadows say about all records."""

    included: np.ndarray  # (N, P) bool, shadow trained on patient
    logits: np.ndarray  # (N, n, 5) float32
    trained: int  # how many were trained just now; the others were on disk


def balanced_halves(patients: int, shadows: int, seed: int) -> np.ndarray:
    """Draw who is in which shadow's training set: ``(N, P)`` bool.

    Shadows come in pairs that share the patients out between them. So each patient is in exactly N / 2 shadows, and
    each shadow has half of the patients (if their number is odd, one of a pair has one more).
    """
    generator = np.random.default_rng([zlib.crc32(b"audit/halves"), seed])
    included = np.zeros((shadows, patients), dtype=bool)
    for first in range(0, shadows, 2):
        included[first, generator.permutation(patients)[: patients // 2]] = True
        included[first + 1] = ~included[first]
    return included


def train_shadows(
    cohort: Cohort, recipe: ShadowRecipe, folder: Path, workers: int | None = None, console: Console | None = None
) -> Shadows:
    """Train the shadows that ``folder`` does not hold yet, and return all.

    Args:
        cohort: the run's patients.
        recipe: how a shadow is trained.
        folder: of this audit; shadows are kept in ``folder/shadows/KEY``, KEY a hash of recipe and patients.
        workers: processes; 1 trains in this one. Default: one per core, and 1 on a GPU.
        console: for a line, and a bar if it is a terminal; default standard error.

    Raises:
        RunError: a process was ended from outside.
    """
    place = folder / "shadows" / recipe.key(cohort)
    place.mkdir(parents=True, exist_ok=True)
    included = balanced_halves(len(cohort), recipe.shadows, recipe.seed)  # (N, P)
    files = [place / f"shadow-{index:03d}.safetensors" for index in range(recipe.shadows)]
    found = [_load(file, (len(cohort.owner), cohort.y.shape[1])) for file in files]
    missing = [index for index, logits in enumerate(found) if logits is None]
    if workers is None:
        workers = 1 if recipe.device == "cuda" else cores()
    console = console or Console(stderr=True)
    if missing:
        console.print(f"audit: training {len(missing)} shadow detectors, {min(workers, len(missing))} at a time")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("training shadow detectors", total=len(files), completed=len(files) - len(missing))
        for index, logits in train_in_parallel(train_shadow, (cohort, included, recipe), missing, workers):
            _save(files[index], logits)
            found[index] = logits
            progress.advance(task)
    return Shadows(included, np.stack([logits for logits in found if logits is not None]), len(missing))


def train_shadow(shared: tuple[Cohort, np.ndarray, ShadowRecipe], index: int) -> np.ndarray:
    """Train one shadow on its half of the patients, and ask it about everybody.

    Args:
        shared: patients, who is in which shadow ``(N, P)``, and recipe.
        index: the shadow's number, from 0.

    Returns:
        Logits ``(n, 5)`` float32.
    """
    cohort, included, recipe = shared
    seed = zlib.crc32(f"{recipe.seed}/audit/shadow/{index}".encode())
    cuda = [torch.cuda.current_device()] if recipe.device == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)  # dropout draws from the process's own generator
        model = build_detector(recipe.detector, recipe.sampling_rate, seed).to(recipe.device)
        generator = torch.Generator().manual_seed(seed)
        data = cohort.training_data(included[index])
        train_detector(model, data, recipe.training, recipe.sampling_rate, recipe.epochs, generator)
    return cohort_logits(model, cohort)


def _save(path: Path, logits: np.ndarray) -> None:
    """Write one shadow's logits, whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        save_file({"logits": np.ascontiguousarray(logits)}, temporary)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _load(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Read one shadow's logits; None when it has to be trained."""
    try:
        logits = load_file(path)["logits"]
    except (OSError, SafetensorError, KeyError):
        return None
    return logits if logits.shape == shape else None
