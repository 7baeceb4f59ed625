"""A run's networks, ready to make twins of an ECG: what ``lavq twin``, the studio and ``Run.twins`` have in common."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lavq_core.data.labels import diagnostic_statements, public_statements
from lavq_core.data.records import Ecg
from lavq_core.data.requests import NORM, Request, parse_request, statements_of
from lavq_core.errors import ConfigError, DataError
from lavq_core.formats.options import ReadOptions
from lavq_core.formats.reading import read_usable
from lavq_core.models.networks import Networks
from lavq_core.models.stored import SharedModel, load_networks, load_shared_model
from lavq_core.models.twins import Patients, request_twins
from lavq_core.runs.layout import RunFolder
from lavq_core.signals.leads import CHEST_INDEX, LEADS
from lavq_core.signals.rr_scaling import rr_limits, scale_rr
from lavq_core.training.detector_training import predict
from lavq_core.twins.made import Made, code_of
from lavq_core.twins.wish import SEX, Wish

SICK = 0.5
"""Probability of NORM below which an ECG is called not healthy."""


@dataclass(frozen=True)
class TwinMaker:
    """A run's networks, loaded once."""

    model: SharedModel
    networks: Networks
    networks_of: str  # whose networks, in words

    @classmethod
    def of_run(cls, run: RunFolder, site: str = "") -> TwinMaker:
        """Load the final model and one hospital's networks (see ``load_networks``).

        Raises:
            RunError: the run has no final model, no such hospital, or no trained editor.
        """
        return cls(load_shared_model(run), *load_networks(run, site))

    @property
    def seen(self) -> Tensor:
        """Counts of the statements that the federation has seen, by superclass: ``(C, S)``."""
        return self.model.codebook["requests"]

    def read(self, path: str | Path, options: ReadOptions | None = None) -> Ecg:
        """Read an ECG file for twins, with all chest leads: the networks were not trained with blank ones.

        Raises:
            DataError: see ``read_usable``; one line that says why.
        """
        return read_usable(path, self.model.config.data.sampling_rate, options or ReadOptions())

    def patient(self, ecg: Ecg, age: float = math.nan, sex: str = "unknown", rate: float = 1.0) -> Patients:
        """Bring an ECG into the beat frame.

        Args:
            ecg: at the models' rate.
            age: years, NaN where unknown.
            sex: of ``SEX``.
            rate: heart rate times this.

        Raises:
            DataError: a blank chest lead, too few beats of one shape, or another sampling rate.
            ConfigError: a heart rate that the record's T-P segments do not give.
        """
        absent = [LEADS[i] for i in CHEST_INDEX if not ecg.present[i]]
        if absent:
            raise DataError(f"record {ecg.name} lacks lead {', '.join(absent)}: a twin needs all chest leads")
        signal, config = self.model.signal(ecg), self.model.config
        if rate != 1.0:
            signal = torch.from_numpy(_at_rate(signal.numpy(), config.data.sampling_rate, rate))
        return Patients.of_one(ecg.name, signal, age, SEX[sex], config)

    def make(self, ecg: Ecg, wish: Wish) -> Made:
        """Make twins of an ECG.

        Raises:
            ConfigError: a disease that cannot be shown, or a heart rate that the record does not give.
            DataError: the ECG cannot be used; one line that says why.
        """
        asked, config = parse_request(wish.disease, public_statements()), self.model.config
        patient = self.patient(ecg, wish.age, wish.sex, wish.rate)
        generator = torch.Generator().manual_seed(wish.seed)
        wanted = statements_of(asked, self.seen, wish.count, generator)
        patients, codes = patient.take(torch.zeros(wish.count, dtype=torch.int64)), self.model.codebook["codes"]
        twins = request_twins(self.networks, codes, patients, wanted, config, wish.strength, generator)
        detector = self.model.detector
        before, after = predict(detector, patient.signal)[0], predict(detector, twins.signal)
        return Made(
            name=ecg.name,
            called=wish.name or code_of(ecg),
            wish=wish,
            patient=patient,
            asked=asked,
            diseases=["+".join(statements) or asked.name for statements in wanted],
            twins=twins,
            gate=twins.gate_over_time(config.separator.stride),
            before=before,
            after=after,
            notes=[*ecg.notes, *_notes(asked, float(before[0]), self.seen)],
        )


def unseen_statements(seen: Tensor) -> set[str]:
    """Diagnostic statements of which the federation has seen no record; ``seen`` counts ``(C, S)``."""
    return {code for column, code in enumerate(diagnostic_statements()) if not seen[:, column].any()}


def _notes(asked: Request, healthy: float, seen: Tensor) -> list[str]:
    """Say what weakens the twins; ``healthy`` is the original's probability of NORM, ``seen`` counts ``(C, S)``."""
    unseen = unseen_statements(seen)
    notes = [
        f"this federation has seen no record with {name}: its words alone were to go by"
        for name in asked.statements
        if name in unseen
    ]
    if healthy < SICK and asked.name != NORM:
        notes.append("this ECG does not read as NORM, so its twins add a disease to what it already shows")
    return notes


def _at_rate(signal: np.ndarray, sampling_rate: int, factor: float) -> np.ndarray:
    """Multiply the heart rate of ``(8, T)`` mV."""
    shortest, longest = rr_limits(signal, sampling_rate)  # of the RR intervals, which go against the rate
    if not shortest <= 1.0 / factor <= longest:
        slow, fast = math.ceil(100 / longest) / 100, math.floor(100 / shortest) / 100
        raise ConfigError(f"rate of this record can be {slow:.2f} to {fast:.2f}: its T-P segments give no more")
    return scale_rr(signal, sampling_rate, 1.0 / factor)
