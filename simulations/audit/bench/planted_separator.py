"""Broken differential privacy, planted in the real private steps of separator and codebook, and sound steps beside it.

As in ``planted_privacy``: a bug is a context in which one function of the training is replaced, and plan, ledger and
claim are left as they are. Networks are small and steps few, so that a play takes some seconds.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.privacy import patient_gradients
from lavq_core.privacy.patient_gradients import Items, Loss, Weights
from lavq_core.settings import Config
from lavq_core.training import private_separator, private_statistics
from lavq_core.training.site_data import SiteData
from simulations import sample
from simulations.audit.bench.case import Case
from simulations.audit.bench.step_case import Planted, step_case
from simulations.audit.privacy.separator.training_step import audit_separator_step
from simulations.audit.privacy.step_audit import StepAudit

_SMALL = (
    "federation.share=[separator,editor,prior]", "separator_training.steps=6", "privacy.separator_rate=.25",
    "separator.width=16", "separator.blocks=1", "separator.heads=2", "codebook.size=16",
)  # fmt: skip


# --- bugs ------------------------------------------------------------------------------------------------------------


def noise_skipped() -> AbstractContextManager[Any]:
    """Gradient sums are released as they are."""

    def mean(total: dict[str, Tensor], clip: float, noise: float, divisor: float) -> dict[str, Tensor]:
        return {name: (value / divisor).float() for name, value in total.items()}

    return patch.object(private_separator, "noisy_mean", mean)


def half_noise() -> AbstractContextManager[Any]:
    """Noise of half of the planned standard deviation."""
    real = private_separator.noisy_mean
    return patch.object(private_separator, "noisy_mean", lambda total, c, noise, by: real(total, c, noise / 2, by))


def public_seed() -> AbstractContextManager[Any]:
    """Noise from the generator that the run's seed has started."""
    drawn = lambda shape, std: std * torch.randn(shape, dtype=torch.float64)  # noqa: E731
    return patch.object(patient_gradients, "gaussian", drawn)


def batch_clipping() -> AbstractContextManager[Any]:
    """The mean gradient of all patients is clipped to C, and not each patient's."""
    real = private_separator.clipped_gradients

    def clipped(loss: Loss, weights: Weights, items: Items, owner: Tensor, clip: float) -> dict[str, Tensor]:
        total = real(loss, weights, items, owner, 1e12)
        length = float(torch.cat([value.flatten() for value in total.values()]).norm()) / len(owner)
        return {name: value * min(1.0, clip / max(length, 1e-12)) for name, value in total.items()}

    return patch.object(private_separator, "clipped_gradients", clipped)


def fixed_batches() -> AbstractContextManager[Any]:
    """A step takes so many patients, drawn by chance: without one, another is likelier."""

    def drawn(patients: int, rate: float) -> Tensor:
        return torch.from_numpy(np.sort(np.random.default_rng().permutation(patients)[: round(rate * patients)]))

    return patch.object(private_separator, "poisson_sample", drawn)


def counts_without_noise() -> AbstractContextManager[Any]:
    """The codebook's counts are released as they are."""
    return patch.object(private_statistics, "release", lambda total, *_: total)


# --- plays -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def bench_config(preset: str) -> Config:
    """A preset of privacy whose separator is trained too, small and for a few steps."""
    return compose([f"privacy={preset}", *_SMALL])


@lru_cache(maxsize=1)
def bench_site() -> SiteData:
    """The bundled sample, as one site."""
    database = Database.open(sample.FOLDER, progress=False)
    return SiteData("bench", database, np.arange(len(database)), bench_config("eps1"))


def play(preset: str, planted: Planted, seed: int, confidence: float) -> StepAudit:
    """Audit a training in which something is planted."""
    config = bench_config(preset)
    config = replace(config, run=replace(config.run, seed=seed))
    with planted():
        return audit_separator_step(config, bench_site(), seed, confidence)


def _case(
    name: str, what: str, planted: Planted, preset: str = "eps1", repeats: int = 3, by_noise: bool = False
) -> Case:
    return step_case(play, bench_config(preset).privacy.epsilon, name, what, planted, preset, repeats, by_noise)


CASES: tuple[Case, ...] = (
    _case("planted/separator-noise-skipped", "The separator's gradients are released without noise.", noise_skipped),
    _case("planted/separator-batch-clipping", "The mean gradient of the separator's step is clipped.", batch_clipping),
    _case("planted/separator-public-seed", "The noise of its steps is drawn from the run's public seed.", public_seed),
    _case("planted/separator-half-noise", "The noise of its steps is half of the plan's.", half_noise, by_noise=True),
    _case("planted/separator-fixed-batches", "Its steps take so many patients each.", fixed_batches, by_noise=True),
    _case("planted/counts-without-noise", "The codebook's counts have no noise.", counts_without_noise, by_noise=True),
    _case("correct/separator-eps1", "The real steps of the separator at epsilon 1.", nullcontext, "eps1", 10),
    _case("correct/separator-eps8", "The real steps of the separator at epsilon 8.", nullcontext, "eps8", 10),
)
