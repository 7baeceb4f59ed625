"""One ECG that somebody hands in: read, checked, and brought to the models' form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from lavq_core.data.records import Ecg, read_record
from lavq_core.errors import DataError
from lavq_core.models.twins import Patients
from lavq_core.settings import Config
from lavq_core.signals.leads import to_independent
from lavq_core.signals.quality import Verdict, assess_record


def read_checked(path: str | Path, sampling_rate: int) -> tuple[Ecg, torch.Tensor]:
    """Read a WFDB record and pass it through the quality gate.

    Returns:
        The record, and its 8 independent leads ``(8, T)`` float32 mV.

    Raises:
        DataError: it cannot be read, has another rate, or the gate rejects it; the message says why.
    """
    ecg = read_record(path, sampling_rate)
    quality = assess_record(ecg.signal, ecg.sampling_rate, sampling_rate, ecg.present)
    if quality.verdict is Verdict.REJECT:
        raise DataError(f"record {ecg.name} is rejected ({'; '.join(quality.reasons)}): give another recording")
    return ecg, torch.from_numpy(to_independent(ecg.signal).copy())


def read_patient(
    path: str | Path,
    age: float,
    sex: float,
    config: Config,
    change: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> tuple[str, Patients]:
    """Read one patient's record for twins: its name, and the patient in the beat frame.

    Args:
        path: WFDB record.
        age: years, NaN where unknown.
        sex: 0 male, 1 female, NaN where unknown.
        config: of the run.
        change: of the signal ``(8, T)`` mV before beats are looked for.

    Raises:
        DataError: see ``read_checked``; or too few beats of one shape.
    """
    rate = config.data.sampling_rate
    ecg, signal = read_checked(path, rate)
    signal = signal if change is None else change(signal)
    patient = Patients.of(signal.unsqueeze(0), np.array([age]), np.array([sex]), config.separator.stride, rate)
    if not patient.beats.found()[0]:
        raise DataError(f"record {ecg.name} has fewer than three beats of one shape: a twin needs a regular ECG")
    return ecg.name, patient
