"""Shadows: what the attacked model might have been, with training sets that the attacker knows.

How a shadow is trained is its recipe's (``federated_shadows`` for a run, ``central_shadows`` for a detector whose run
is not at hand). Who is in which, how many are trained at a time and where they are kept is here. A shadow depends on
its recipe, the patients and its number alone, so the same come out of any number of processes, and a finished one is
kept on disk. (Private shadows alone differ, by their noise.)
"""

from __future__ import annotations

import os
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from simulations.audit.cohort import Cohort
from simulations.audit.shadows.pool import cores, train_in_parallel

FORMAT = 2  # raised whenever a shadow of the same settings would come out otherwise, so that older ones are not found

Answers = dict[str, np.ndarray]
"""What a model says about the cohort: ``logits (n, 5)`` of its detector, and by ``SURFACE/ATTACK`` a number for each
patient ``(P,)``, NaN where there is none. Of several shadows, each has one dimension more in front."""


class Recipe(Protocol):
    """How a shadow is trained."""

    @property
    def shadows(self) -> int:
        """How many; even."""

    @property
    def seed(self) -> int:
        """Draws who is in which shadow."""

    @property
    def device(self) -> str:
        """Either cpu or cuda."""

    def key(self, cohort: Cohort) -> str:
        """Name these shadows of these patients: a hash of all they depend on, but not of where they are computed."""

    def train(self, cohort: Cohort, included: np.ndarray, index: int, folder: Path) -> Answers:
        """Train shadow ``index`` on some patients, ``(P,)`` bool, working below ``folder``; what it says."""


@dataclass(frozen=True)
class Shadows:
    """What all shadows say about everybody."""

    included: np.ndarray  # (N, P) bool, shadow trained on patient
    answers: Answers
    trained: int  # how many were trained just now; the others were on disk

    def without_pair_of(self, index: int) -> Shadows:
        """Leave out a shadow and the one that was trained on exactly the others: nothing then tells who was in it."""
        rest = np.array([i for i in range(len(self.included)) if i // 2 != index // 2])
        return Shadows(self.included[rest], {name: value[rest] for name, value in self.answers.items()}, 0)

    def of(self, index: int) -> Answers:
        """What one shadow says."""
        return {name: value[index] for name, value in self.answers.items()}


def fair_halves(patients: int, shadows: int, seed: int) -> np.ndarray:
    """Draw who is in which shadow's training set: ``(N, P)`` bool.

    A fair coin for each patient, tossed on its own, says who is in the first of a pair of shadows; the second takes the
    others. So each patient is in exactly N / 2 shadows, and within one shadow memberships are independent, as the
    one-run audit needs them.
    """
    generator = np.random.default_rng([zlib.crc32(b"audit/halves"), seed])
    included = np.zeros((shadows, patients), dtype=bool)
    for first in range(0, shadows, 2):
        included[first] = generator.random(patients) < 0.5
        included[first + 1] = ~included[first]
    return included


def train_shadows(
    cohort: Cohort, recipe: Recipe, folder: Path, workers: int | None = None, console: Console | None = None
) -> Shadows:
    """Train the shadows that ``folder`` does not hold yet, and return all.

    Args:
        cohort: the run's patients.
        recipe: how a shadow is trained.
        folder: of this audit; shadows are kept in ``folder/shadows/KEY``, KEY the recipe's.
        workers: processes; 1 trains in this one. Default: one per core, and 1 on a GPU.
        console: for a line, and a bar if it is a terminal; default standard error.

    Raises:
        RunError: a process was ended from outside.
    """
    place = folder / "shadows" / recipe.key(cohort)
    place.mkdir(parents=True, exist_ok=True)
    included = fair_halves(len(cohort), recipe.shadows, recipe.seed)  # (N, P)
    files = [place / f"shadow-{index:03d}.safetensors" for index in range(recipe.shadows)]
    found = [_load(file, len(cohort)) for file in files]
    missing = [index for index, answers in enumerate(found) if answers is None]
    if workers is None:
        workers = 1 if recipe.device == "cuda" else cores()
    console = console or Console(stderr=True)
    if missing:
        console.print(f"audit: training {len(missing)} shadows, {min(workers, len(missing))} at a time")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("training shadows", total=len(files), completed=len(files) - len(missing))
        for index, answers in train_in_parallel(_train, (cohort, included, recipe, place), missing, workers):
            _save(files[index], answers)
            found[index] = answers
            progress.advance(task)
    known = [answers for answers in found if answers is not None]
    return Shadows(included, {name: np.stack([one[name] for one in known]) for name in known[0]}, len(missing))


def _train(shared: tuple[Cohort, np.ndarray, Recipe, Path], index: int) -> Answers:
    cohort, included, recipe, place = shared
    return recipe.train(cohort, included[index], index, place)


def _save(path: Path, answers: Answers) -> None:
    """Write what one shadow says, whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        save_file({name: np.ascontiguousarray(value) for name, value in answers.items()}, temporary)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _load(path: Path, patients: int) -> Answers | None:
    """Read what one shadow says; None when it has to be trained."""
    try:
        answers = load_file(path)
    except (OSError, SafetensorError):
        return None
    fits = "logits" in answers and all(len(value) == patients for name, value in answers.items() if name != "logits")
    return answers if fits else None
