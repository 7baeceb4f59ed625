"""What the arms of one seed are held against: plan, judges, originals and real records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lavq_core.data.database import Database
from lavq_core.signals.beats import Beats, find_beats
from simulations.judges.jury import JUDGES, Jury, Opinion
from simulations.judges.plan import HELD_OUT, Plan, make_plan
from simulations.judges.transformer import EPOCHS

JUDGE_FOLDS = (6, 7, 8)
"""Stratification folds whose real records fit the judges."""

_RARE = 0.95  # quantile of the originals' scores above which a judge is said to see a class


@dataclass(frozen=True)
class TwinSet:
    """One arm's answers to the plan's requests, in its order."""

    signal: np.ndarray  # (n, 8, T) float32 mV
    envelope: np.ndarray  # (n, T) in 0..1; 0 where the twin equals its original
    median: np.ndarray  # (n, 8, W) mV, median beats as found in the finished signals

    @classmethod
    def measured(cls, signal: np.ndarray, envelope: np.ndarray, rate: int) -> TwinSet:
        """Find the median beats of finished twins, as for any record; what a generator meant does not count."""
        return cls(signal, envelope, find_beats(signal, rate).median)


@dataclass(frozen=True)
class Bench:
    """One seed's plan and judges, and what these say of the originals and of real records."""

    database: Database
    beats: Beats  # of all records of the database
    plan: Plan
    jury: Jury
    seed: int

    @cached_property
    def original(self) -> Opinion:
        """Opinion of the unedited original of every request."""
        return self._judge(self.plan.patient)

    @cached_property
    def real(self) -> Opinion:
        """Opinion of the real record behind every request."""
        return self._judge(self.plan.real)

    @cached_property
    def thresholds(self) -> dict[str, np.ndarray]:
        """By judge, score ``(5,)`` that one original in 20 exceeds."""
        _, first = np.unique(self.plan.patient, return_index=True)
        return {judge: np.quantile(self.original.classes[judge][first], _RARE, axis=0) for judge in JUDGES}

    def patients(self, positions: np.ndarray) -> np.ndarray:
        """Patient number of each record."""
        return self.database.table["patient_id"].to_numpy()[positions]

    def signals(self, positions: np.ndarray) -> np.ndarray:
        """Signals ``(m, 8, T)`` mV."""
        return self.database.signals(positions).numpy()

    def unedited(self) -> TwinSet:
        """Answer every request with the patient's own ECG: what no generator at all would score."""
        signal = self.signals(self.plan.patient)
        return TwinSet(signal, np.zeros_like(signal[:, 0]), self.beats.median[self.plan.patient])

    def _judge(self, positions: np.ndarray) -> Opinion:
        return self.jury.judge(self.signals(positions), self.beats.median[positions])


def set_up(
    database: Database,
    beats: Beats,
    seed: int = 0,
    judge_folds: Sequence[int] = JUDGE_FOLDS,
    held_out: Sequence[int] = HELD_OUT,
    epochs: int = EPOCHS,
) -> Bench:
    """Make the plan and fit the judges; about three minutes on one core for PTB-XL.

    Args:
        database: the whole, its folds keep patients together.
        beats: of all its records.
        seed: of plan and judges.
        judge_folds: fit the judges; no generator may have trained on them.
        held_out: whose patients are judged; neither judge nor generator may have trained on them.
        epochs: of the transformer.

    Raises:
        DataError: too few records; see ``make_plan`` and ``Jury.fit``.
    """
    fold = database.table["strat_fold"]
    learn = np.flatnonzero(fold.isin(judge_folds).to_numpy() & beats.found())
    plan = make_plan(database, beats, seed, held_out)
    return Bench(database, beats, plan, Jury.fit(database, beats, learn, seed, epochs), seed)
