"""One ECG that somebody hands in: read, checked, and brought to the models' form."""

from __future__ import annotations

from pathlib import Path

import torch

from lavq_core.data.records import Ecg, read_record
from lavq_core.errors import DataError
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
