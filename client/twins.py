"""Twins of one ECG that somebody hands in: what ``lavq twin`` and the twin studio have in common."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from client.records import read_patient
from lavq_core.data.labels import SUPERCLASSES, diagnostic_statements, public_statements
from lavq_core.data.records import Ecg
from lavq_core.data.requests import NORM, Request, parse_request, statements_of
from lavq_core.errors import ConfigError
from lavq_core.formats.options import ReadOptions
from lavq_core.models.editor import envelope
from lavq_core.models.networks import Networks
from lavq_core.models.stored import SharedModel, load_networks, load_shared_model
from lavq_core.models.twins import Patients, Twins, request_twins
from lavq_core.runs.layout import RunFolder
from lavq_core.signals.leads import LEADS, to_twelve
from lavq_core.signals.rr_scaling import rr_limits, scale_rr
from lavq_core.training.detector_training import predict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEX = {"male": 0.0, "female": 1.0, "unknown": float("nan")}
_TITLE = 72  # letters of a picture's title
_SICK = 0.5  # probability of NORM below which a reference is called not healthy


@dataclass(frozen=True)
class Wish:
    """What is asked for.

    Raises:
        ConfigError: a number out of range, named by the field.
    """

    disease: str  # a superclass, or SCP statements joined with "+"
    count: int = 1  # different twins
    strength: float = 1.0  # dose of the disease, 0 to 1
    age: float = float("nan")  # years, NaN where unknown
    sex: str = "unknown"  # of ``SEX``
    rate: float = 1.0  # heart rate times this
    seed: int = 0  # another seed, other twins

    def __post_init__(self) -> None:
        wrong = [
            (self.count < 1, "count must be at least 1"),
            (not 0.0 <= self.strength <= 1.0, "strength must lie between 0 and 1"),
            (not self.rate > 0.0, "rate must be above 0"),
            (self.age < 0.0, "age must not be negative"),
            (self.sex not in SEX, f"sex must be one of {', '.join(SEX)}"),
            (not 0 <= self.seed < 2**63, "seed must be a whole number from 0 to 2^63 - 1"),
        ]
        for bad, message in wrong:
            if bad:
                raise ConfigError(message)

    @property
    def conditions(self) -> list[str]:
        """What was asked for beside the disease, in words."""
        given = [
            (self.rate != 1.0, f"heart rate times {self.rate:g}"),
            (not math.isnan(self.age), f"age {self.age:g}"),
            (self.sex != "unknown", self.sex),
        ]
        return [words for told, words in given if told]


@dataclass(frozen=True)
class Made:
    """n twins of one patient, and what is said of them."""

    name: str  # of the patient's record
    wish: Wish
    patient: Patients  # 1 ECG, at the wanted heart rate
    asked: Request
    diseases: list[str]  # of each twin: its statements
    twins: Twins
    gate: Tensor  # (n, tokens) in 0..1, over the whole record
    before: Tensor  # (5,) detector's probabilities of the original, as it gives them
    after: Tensor  # (n, 5) ... and of the twins
    notes: list[str]  # what a reader of the twins should know

    @property
    def shown(self) -> list[int]:
        """Superclasses whose probabilities are shown: those asked for, NORM where a statement belongs to none."""
        return [int(c) for c in self.asked.superclasses.nonzero()[0]] or [0]

    @property
    def reference(self) -> np.ndarray:
        """The original: ``(12, T)`` mV."""
        return to_twelve(self.patient.signal[0].numpy())

    def stem(self, i: int) -> str:
        """Name of twin ``i``'s files, one that WFDB takes."""
        return re.sub(r"[^A-Za-z0-9_-]+", "-", f"{self.name}_{self.asked.name}_{i + 1:02d}")

    def record(self, i: int) -> tuple[Ecg, list[str]]:
        """Twin ``i`` as a record, and the comments that its header must have."""
        twin = to_twelve(self.twins.signal[i].numpy())
        notes = [
            f"SYNTHETIC: digital twin of {self.name} with {self.diseases[i]}, strength {self.wish.strength:g}, "
            f"seed {self.wish.seed}",
            *self.wish.conditions,
            "research use, not a medical device",
        ]
        return Ecg(self.stem(i), twin, self.patient.sampling_rate, np.ones(len(LEADS), bool)), notes

    def draw(self, i: int, layout: str = "3x4+II", title: str = "") -> Figure:
        """Draw twin ``i`` over its original, edited segments shaded, the gate below.

        Without a title of the caller's it tells what the detector reads, uncalibrated.
        """
        from lavq_core.plots import draw_ecg

        return draw_ecg(
            to_twelve(self.twins.signal[i].numpy()),
            self.patient.sampling_rate,
            layout=layout,
            reference=self.reference,
            envelope=self.twins.envelope[i].numpy(),
            gate=self.gate[i].numpy(),
            title=title or self._title(i),
            synthetic=True,
        )

    def draw_beats(self, i: int) -> Figure:
        """Draw the median beat of twin ``i`` over the original's, twelve leads side by side."""
        from lavq_core.plots import draw_median_beats

        valid = self.patient.beats.valid[0]  # (W,)
        beat, original = (to_twelve(x.numpy()) for x in (self.twins.median[i], self.patient.input.x[0]))
        gate = self.twins.gate[i]
        return draw_median_beats(
            np.where(valid, beat, np.nan),
            self.patient.sampling_rate,
            reference=np.where(valid, original, np.nan),
            envelope=envelope(gate[None], len(valid) // len(gate))[0].numpy() * valid,
            gate=gate.numpy(),
            title=f"Median beat: {self.name} with {self.diseases[i]}",
            synthetic=True,
        )

    def _title(self, i: int) -> str:
        """Say what the picture shows, with the detector's readings as long as they fit on the line."""
        title = f"{self.name} with {self.diseases[i]}"
        if self.wish.rate != 1.0:
            title += f", heart rate times {self.wish.rate:g}"
        reads = ", ".join(f"{SUPERCLASSES[c]} {self.before[c]:.2f} to {self.after[i, c]:.2f}" for c in self.shown)
        whole = f"{title}   \u00b7   detector: {reads}"
        return whole if len(whole) <= _TITLE else title


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

    def make(self, path: str | Path, wish: Wish, options: ReadOptions | None = None) -> Made:
        """Make twins of the ECG file at ``path``; ``options`` say what a CSV or NPY file does not.

        Raises:
            LavqError: a disease that cannot be shown, a record that cannot be used; one line that says why.
        """
        asked, config = parse_request(wish.disease, public_statements()), self.model.config
        ecg, patient = self._read(path, wish, options)
        generator = torch.Generator().manual_seed(wish.seed)
        wanted = statements_of(asked, self.seen, wish.count, generator)
        patients, codes = patient.take(torch.zeros(wish.count, dtype=torch.int64)), self.model.codebook["codes"]
        twins = request_twins(self.networks, codes, patients, wanted, config, wish.strength, generator)
        detector = self.model.detector
        before, after = predict(detector, patient.signal)[0], predict(detector, twins.signal)
        return Made(
            name=ecg.name,
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

    def _read(self, path: str | Path, wish: Wish, options: ReadOptions | None) -> tuple[Ecg, Patients]:
        """Read the ECG and bring it to the wanted heart rate: as it was read, and the patient in the beat frame."""
        config = self.model.config

        def at_rate(signal: Tensor) -> Tensor:
            return torch.from_numpy(_at_rate(signal.numpy(), config.data.sampling_rate, wish.rate))

        change = None if wish.rate == 1.0 else at_rate
        return read_patient(path, wish.age, SEX[wish.sex], config, change, options)


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
    if healthy < _SICK and asked.name != NORM:
        notes.append("this ECG does not read as NORM, so its twins add a disease to what it already shows")
    return notes


def _at_rate(signal: np.ndarray, sampling_rate: int, factor: float) -> np.ndarray:
    """Multiply the heart rate of ``(8, T)`` mV."""
    shortest, longest = rr_limits(signal, sampling_rate)  # of the RR intervals, which go against the rate
    if not shortest <= 1.0 / factor <= longest:
        slow, fast = math.ceil(100 / longest) / 100, math.floor(100 / shortest) / 100
        raise ConfigError(f"rate of this record can be {slow:.2f} to {fast:.2f}: its T-P segments give no more")
    return scale_rr(signal, sampling_rate, 1.0 / factor)
