"""Detectors of the test bench: one that knows its patients by heart, and the same attack asked about nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.models.detector import build_detector
from lavq_core.training.detector_training import train_detector
from simulations import sample
from simulations.audit.attacks.scores import attack
from simulations.audit.bench.case import Case, Outcome
from simulations.audit.cohort import Cohort
from simulations.audit.finding import Finding, measure
from simulations.audit.measure import CONFIDENCE
from simulations.audit.privacy.one_run import Attack, best_bound
from simulations.audit.shadows.central import CentralRecipe
from simulations.audit.shadows.training import Shadows, fair_halves, train_shadows
from simulations.audit.verdict import names_members

_OVERFIT = (
    "detector.width=8", "detector.blocks=4", "detector.dropout=0", "detector_training.epochs=16",
    "federation.rounds=1", "audit.shadows=6", "detector_training.noise=0", "detector_training.amplitude=0",
    "detector_training.shift=0", "detector_training.wander=0", "detector_training.lead_dropout=0",
    "detector_training.crop=0",
)  # fmt: skip
_DELTA = 1e-5


@lru_cache(maxsize=1)
def _everybody() -> Cohort:
    return Cohort.of_run(Database.open(sample.FOLDER, progress=False), compose())


@lru_cache(maxsize=1)
def _played(seed: int) -> tuple[Cohort, np.ndarray, Shadows, np.ndarray]:
    """Train an overfit detector on a random half of the sample's patients, and its shadows; who was in, and logits."""
    cohort, recipe = _everybody(), CentralRecipe.of_model(compose([*_OVERFIT, f"run.seed={seed}"]), torch.device("cpu"))
    member = fair_halves(len(cohort), 2, 10_000 + seed)[0]
    model = build_detector(recipe.detector, recipe.sampling_rate, 10_000 + seed)
    generator = torch.Generator().manual_seed(10_000 + seed)
    data = cohort.training_data(member)
    train_detector(model, data, recipe.training, recipe.sampling_rate, recipe.epochs, generator)
    with tempfile.TemporaryDirectory() as folder:
        shadows = train_shadows(cohort, recipe, Path(folder), workers=1, console=Console(quiet=True))
    return cohort, member, shadows, cohort.logits(model)


def play_overfit(seed: int) -> Sequence[Outcome]:
    """Attack an overfit detector: LiRA's and the loss threshold's rate at 1 %, and the one-run bound."""
    cohort, member, shadows, logits = _played(seed)
    found = {one.attack: one for one in attack({"logits": logits}, shadows, cohort)}
    lira = _required(measure("detector", "lira", found["lira"].values, member))
    loss = _required(measure("detector", "loss", found["loss"].values, member))
    attacks = [Attack(name, found[name].values, member) for name in ("lira", "rmia")]
    bound = best_bound(attacks, _DELTA, CONFIDENCE).epsilon
    return (
        _rate("tpr_at_1pct_fpr", lira),
        Outcome("epsilon_lower_bound", bound, bound, bound, len(cohort), bound > 0),
        _rate("loss_tpr_at_1pct_fpr", loss),
    )


def play_split(seed: int) -> Sequence[Outcome]:
    """Ask the same attack which members a coin has called members: it has to read one half."""
    cohort, member, shadows, logits = _played(seed)
    scores = attack({"logits": logits}, shadows, cohort)[0].values[member]
    called = np.random.default_rng(seed).random(int(member.sum())) < 0.5
    found = _required(measure("control", "lira", scores, called))
    point = found.points["tpr_at_1pct_fpr"]
    auc = found.auc
    return (Outcome("auc", auc.value, auc.low, auc.high, auc.n, names_members(point)),)


def _rate(metric: str, found: Finding) -> Outcome:
    point = found.points["tpr_at_1pct_fpr"]
    rate = point.true_positives
    return Outcome(metric, rate.value, rate.low, rate.high, rate.trials, names_members(point))


def _required(found: Finding | None) -> Finding:
    if found is None:
        raise ValueError("a test bench of fewer than 30 members or others shows nothing")
    return found


CASES: tuple[Case, ...] = (
    Case(
        "planted/overfit", "A detector without privacy that knows its patients by heart.", True, None, 3, play_overfit
    ),
    Case("correct/split", "Members against members: nothing is there to find.", False, None, 3, play_split),
)
