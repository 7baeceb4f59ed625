"""Broken differential privacy, planted in the real training step, and sound privacy beside it.

A bug is a context in which one function of the training is replaced, as a programmer might have written it; the code
itself has no switches for it. Everything else (plan, ledger, claim) is left as it is, so each of these trainings states
an epsilon that it does not keep.

The plan is solved for fewer and therefore less noisy steps than a preset's, so that a play takes a second or two; what
all steps cost together is the preset's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.privacy.noise import gaussian
from lavq_core.settings import Config
from lavq_core.training import feature_round, head_training
from lavq_core.training.head_training import PatientItems, Watch
from lavq_core.training.site_data import SiteData
from simulations import sample
from simulations.audit.bench.case import Case
from simulations.audit.bench.step_case import Planted, step_case
from simulations.audit.privacy.step_audit import StepAudit
from simulations.audit.privacy.training_step import audit_training_step

_FAST = ("federation.rounds=3", "detector_training.steps=8", "detector_training.epochs=8")


# --- bugs ------------------------------------------------------------------------------------------------------------


def noise_skipped() -> AbstractContextManager[Any]:
    """Sums are released as they are."""
    return patch.object(head_training, "release", lambda total, *_: total)


def half_noise() -> AbstractContextManager[Any]:
    """Noise of half of the planned standard deviation."""
    real = head_training.release
    return patch.object(head_training, "release", lambda total, clip, noise: real(total, clip, noise / 2))


def public_seed() -> AbstractContextManager[Any]:
    """Noise from the generator that the run's seed has started."""

    def release(total: Tensor, clipping_norm: float, noise_multiplier: float) -> Tensor:
        return total + noise_multiplier * clipping_norm * torch.randn(total.shape, dtype=torch.float64)

    return patch.object(head_training, "release", release)


def noise_over_batch() -> AbstractContextManager[Any]:
    """The noise of a sum is divided by the number of patients before it is added, and the sum once more with it."""
    real = head_training.train_head

    def train_head(
        model: Any, items: PatientItems, config: Any, clip: float, noise: float, size: float, watch: Watch | None = None
    ) -> float:
        return real(model, items, config, clip, noise / size, size, watch)

    return patch.object(feature_round, "train_head", train_head)


def batch_clipping() -> AbstractContextManager[Any]:
    """The mean gradient of all patients is clipped to C, and not each patient's."""

    def clipped(
        x: Tensor, y: Tensor, share: Tensor, _: Tensor, weights: Tensor, positive: Tensor, clip: float
    ) -> Tensor:
        probability = torch.sigmoid(x @ weights.double().T)  # (m, 5)
        error = torch.where(y > 0, positive, 1.0) * (probability - y)
        mean = (error * share[:, None]).T @ x / share.sum()
        return mean * min(1.0, clip / float(mean.norm())) * share.sum()

    return patch.object(head_training, "_clipped_gradient", clipped)


def per_record_clipping() -> AbstractContextManager[Any]:
    """Every record counts like a patient."""
    return patch.object(head_training, "item_weights", lambda owner: torch.ones(len(owner), dtype=torch.float64))


@contextmanager
def same_noise_every_round() -> Iterator[None]:
    """Each step of a round gets the noise that it had in the round before; another training gets other noise."""
    drawn: list[Tensor] = []
    step = 0
    real = head_training.train_head

    def train_head(*given: Any) -> float:
        nonlocal step
        step = 0
        return real(*given)

    def release(total: Tensor, clipping_norm: float, noise_multiplier: float) -> Tensor:
        nonlocal step
        if total.dim() < 2:  # number of patients and centre, which come before all rounds of the head
            drawn.clear()
            return real_release(total, clipping_norm, noise_multiplier)
        if step == len(drawn):
            drawn.append(gaussian(tuple(total.shape), 1.0))
        step += 1
        return total + noise_multiplier * clipping_norm * drawn[step - 1]

    real_release = head_training.release
    with patch.object(feature_round, "train_head", train_head), patch.object(head_training, "release", release):
        yield


# --- plays -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def bench_config(preset: str) -> Config:
    """A preset of privacy with fewer steps."""
    return compose([f"privacy={preset}", *_FAST])


@lru_cache(maxsize=1)
def bench_patients() -> PatientItems:
    """Training patients of the bundled sample, described."""
    database = Database.open(sample.FOLDER, progress=False)
    return SiteData("bench", database, np.arange(len(database)), bench_config("eps1")).described


def play(preset: str, planted: Planted, seed: int, confidence: float) -> StepAudit:
    """Audit a training in which something is planted."""
    config = bench_config(preset)
    with planted():
        return audit_training_step(
            replace(config, run=replace(config.run, seed=seed)), bench_patients(), seed, confidence
        )


def _case(
    name: str, what: str, planted: Planted, preset: str = "eps1", repeats: int = 5, by_noise: bool = False
) -> Case:
    return step_case(play, bench_config(preset).privacy.epsilon, name, what, planted, preset, repeats, by_noise)


CASES: tuple[Case, ...] = (
    _case("planted/noise-skipped", "Sums are released without noise.", noise_skipped),
    _case("planted/noise-over-batch", "The noise of a sum is divided by the number of patients.", noise_over_batch),
    _case("planted/batch-clipping", "The mean gradient is clipped instead of each patient's.", batch_clipping),
    _case("planted/public-seed", "The noise is drawn from the run's public seed.", public_seed),
    _case("planted/per-record-clipping", "A patient counts once for every record.", per_record_clipping),
    _case("planted/half-noise", "The noise is half of what the plan says.", half_noise, by_noise=True),
    _case("planted/same-noise", "Every round draws the same noise.", same_noise_every_round, by_noise=True),
    _case("correct/eps1", "The real training at epsilon 1.", nullcontext, "eps1", 20),
    _case("correct/eps8", "The real training at epsilon 8.", nullcontext, "eps8", 20),
)
