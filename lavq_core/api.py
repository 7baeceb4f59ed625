"""A run in Python: read ECGs for it, score them, make twins. See ``lavq_core`` for the five lines."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lavq_core.data.labels import public_statements
from lavq_core.data.records import Ecg
from lavq_core.data.requests import parse_request, statements_of
from lavq_core.errors import ConfigError, DataError
from lavq_core.formats.options import ReadOptions
from lavq_core.formats.reading import read_usable
from lavq_core.models.calibration import Calibration
from lavq_core.models.networks import Networks
from lavq_core.models.stored import SharedModel, load_calibration, load_networks, load_shared_model
from lavq_core.models.twins import Patients, request_twins
from lavq_core.runs.layout import RunFolder
from lavq_core.signals.leads import CHEST_INDEX, LEADS, to_independent, to_twelve
from lavq_core.training.detector_training import predict

SEX = {"male": 0.0, "female": 1.0, "unknown": math.nan}


def load_run(folder: str | Path, site: str = "") -> Run:
    """Load a finished run, or a folder that ``lavq export`` wrote.

    Args:
        folder: the run folder.
        site: whose networks make twins, when the run holds several.

    Raises:
        RunError: it is no run folder, has no final model, or a file was changed.
    """
    run = RunFolder.open(folder)
    model = load_shared_model(run)
    return Run(run, model, load_calibration(run, model, None), site)


@dataclass(frozen=True)
class Run:
    """A run's detector and networks, loaded once."""

    folder: RunFolder
    model: SharedModel
    calibration: Calibration | None  # None: probabilities are as the detector gives them
    site: str = ""

    @property
    def sampling_rate(self) -> int:
        """Hz of the models."""
        return self.model.config.data.sampling_rate

    def read(
        self,
        path: str | Path,
        *,
        sampling_rate: float | None = None,
        unit: str = "",
        leads: Sequence[str] = (),
        start: float = 0.0,
    ) -> Ecg:
        """Read an ECG file of any format for this run: resampled, 10 s, through the quality gate.

        Args:
            path: WFDB record, DICOM, MUSE XML, EDF, CSV or NPY.
            sampling_rate: Hz, of a CSV or NPY file.
            unit: mV, uV, nV or V, of a CSV or NPY file.
            leads: of a NPY file, or a CSV without names, in order.
            start: s, where the 10 s begin in a longer recording.

        Returns:
            The ECG, ``signal`` (12, T) mV; its ``notes`` say what was done to it and what the gate flags.

        Raises:
            DataError: it cannot be used; one line that says why.
        """
        options = ReadOptions(sampling_rate, unit, tuple(leads), start)
        return read_usable(path, self.sampling_rate, options, self.model.most_blank)

    def detect(self, ecg: Ecg) -> dict[str, float]:
        """Score an ECG of ``read`` or a twin: a probability per class, calibrated where the run is.

        Raises:
            DataError: the ECG has another rate.
        """
        found = predict(self.model.detector, self._signal(ecg).unsqueeze(0)).numpy()  # (1, 5)
        found = found if self.calibration is None else self.calibration.apply(found)
        return {name: float(p) for name, p in zip(self.model.classes, found[0], strict=True)}

    def twins(
        self,
        ecg: Ecg,
        disease: str,
        *,
        count: int = 1,
        strength: float = 1.0,
        age: float = math.nan,
        sex: str = "unknown",
        seed: int = 0,
    ) -> list[Ecg]:
        """Make digital twins of an ECG of ``read``.

        Args:
            ecg: of a healthy patient.
            disease: a superclass, or SCP statements joined with "+": "MI", "IMI+LAFB".
            count: different twins.
            strength: dose of the disease, 0 to 1.
            age: years, NaN where unknown.
            sex: "male", "female" or "unknown".
            seed: another seed, other twins.

        Returns:
            The twins; their first note says SYNTHETIC, and ``write_ecg`` writes it into the file.

        Raises:
            ConfigError: a disease that a twin cannot show, or a number out of range.
            DataError: too few beats of one shape, a blank chest lead, or another rate.
            RunError: no network of this run can make twins.
        """
        _check(ecg, count, strength, sex)
        asked, config, codebook = parse_request(disease, public_statements()), self.model.config, self.model.codebook
        patient = Patients.of_one(ecg.name, self._signal(ecg), age, SEX[sex], config)
        generator = torch.Generator().manual_seed(seed)
        wanted = statements_of(asked, codebook["requests"], count, generator)
        patients = patient.take(torch.zeros(count, dtype=torch.int64))
        made = request_twins(self._networks, codebook["codes"], patients, wanted, config, strength, generator)
        everything = np.ones(len(LEADS), dtype=bool)
        return [
            Ecg(
                re.sub(r"[^A-Za-z0-9_-]+", "-", f"{ecg.name}_{asked.name}_{i + 1:02d}"),
                to_twelve(signal.numpy()),
                float(self.sampling_rate),
                everything,
                (
                    f"SYNTHETIC: digital twin of {ecg.name} with {'+'.join(codes) or asked.name}, "
                    f"strength {strength:g}, seed {seed}",
                    "research use, not a medical device",
                ),
            )
            for i, (signal, codes) in enumerate(zip(made.signal, wanted, strict=True))
        ]

    @cached_property
    def _networks(self) -> Networks:
        return load_networks(self.folder, self.site)[0]

    def _signal(self, ecg: Ecg) -> Tensor:
        """Take the 8 independent leads: ``(8, T)``."""
        if ecg.sampling_rate != self.sampling_rate:
            raise DataError(
                f"record {ecg.name} has {ecg.sampling_rate:g} Hz and this run {self.sampling_rate} Hz: "
                "read it with run.read"
            )
        return torch.from_numpy(to_independent(ecg.signal).copy())


def _check(ecg: Ecg, count: int, strength: float, sex: str) -> None:
    absent = [LEADS[i] for i in CHEST_INDEX if not ecg.present[i]]
    if absent:
        raise DataError(f"record {ecg.name} lacks lead {', '.join(absent)}: a twin needs all chest leads")
    if count < 1:
        raise ConfigError("count must be at least 1")
    if not 0.0 <= strength <= 1.0:
        raise ConfigError("strength must lie between 0 and 1")
    if sex not in SEX:
        raise ConfigError(f"sex must be one of {', '.join(SEX)}")
