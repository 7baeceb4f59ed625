"""Shadows of a run: the same federation, trained again on a random half of its patients.

Same server, same sites, same rounds, same noise where training is private, same initial weights (the server has sent
them to everybody). With ``audit.whole`` the shadows train separator, editor and twins too; otherwise their sites train
the detector alone, which is what costs least and differs from a run with twins in just them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lavq_core.config import as_overrides, compose
from lavq_core.errors import RunError
from lavq_core.runs.layout import RunFolder, write_atomic
from lavq_core.settings import Config
from simulations.audit.answers import model_answers
from simulations.audit.attacks.people import BeatFrame
from simulations.audit.cohort import Cohort
from simulations.audit.published import PublishedModel
from simulations.audit.shadows.training import FORMAT, Answers
from simulations.audit.shadows.watching import Watcher
from simulations.inprocess import run_in_process
from simulations.launch import quoted

_ALONE = ("separator_training.steps=0", "twins.per_record=0", "federation.share=[]")
_ELSEWHERE = ("run.dir", "run.resume", "run.device", "run.tensorboard", "data.dir", "data.cache_dir", "audit.")


_TRIES = 5  # trainings of a private shadow


@dataclass(frozen=True)
class FederatedRecipe:
    """All that a shadow of a run depends on beside the patients."""

    overrides: tuple[str, ...]  # a whole configuration
    shadows: int
    seed: int
    device: str
    whole: bool  # separator, editor and twins are trained too
    frame: BeatFrame | None = None  # whom codebooks and twins are asked about; None: nobody

    @classmethod
    def of_run(cls, config: Config, device: str, frame: BeatFrame | None = None) -> FederatedRecipe:
        """Take a run's own configuration.

        In private training the separator is always there if it was there in the run: without it the detector would get
        its part of the budget, and less noise than the run's.
        """
        whole = (config.audit.whole or config.privacy.epsilon > 0) and config.separator_training.steps > 0
        overrides = (*as_overrides(config), *(() if whole else _ALONE), "audit.enabled=false", "run.resume=false")
        return cls(overrides, config.audit.shadows, config.run.seed, device, whole, frame if whole else None)

    def key(self, cohort: Cohort) -> str:
        """See ``Recipe``; where files lie does not enter."""
        settings = sorted(item for item in self.overrides if not item.startswith(_ELSEWHERE))
        content = {"format": FORMAT, "patients": cohort.digest(), "settings": settings, "shadows": self.shadows}
        content["asked"] = self.frame is not None
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def train(self, cohort: Cohort, included: np.ndarray, index: int, folder: Path) -> Answers:
        """See ``Recipe``; what a shadow has broken off is begun anew, and of a finished one only its answers stay."""
        place = folder / f"run-{index:03d}"
        shutil.rmtree(place, ignore_errors=True)
        members = place.with_suffix(".members")
        write_atomic(members, "".join(f"{patient}\n" for patient in cohort.patients[included]))
        overrides = [*self.overrides, f"run.dir={quoted(place)}", f"partition.members={quoted(members)}"]
        config = compose(overrides)
        # The server would report every round of every shadow.
        logging.getLogger("flwr").setLevel(logging.WARNING)
        watcher = self._watched(overrides, config, cohort, place)
        answers = model_answers(PublishedModel.of_run(RunFolder(place), self.frame), cohort) | watcher.answers()
        shutil.rmtree(place)
        members.unlink()
        return answers

    def _watched(self, overrides: list[str], config: Config, cohort: Cohort, place: Path) -> Watcher:
        """Train and watch the federation; a private one that its noise has broken is trained again, with other noise.

        At a small epsilon the noise in a hospital's number of patients can leave next to none, and its update is
        refused for its size. The audited run is one that came through, so its shadows have to be.
        """
        tries = _TRIES if config.privacy.epsilon > 0 else 1
        for left in reversed(range(tries)):
            watcher = Watcher(config, cohort, self.frame)
            try:
                run_in_process(overrides, config.federation.sites, client_app=watcher)
                break
            except RunError:
                if left == 0:
                    raise
                shutil.rmtree(place)
        return watcher
