"""The record that twins are made of, and what was written, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lavq_core.data.records import read_record
from lavq_core.signals.leads import to_independent

ROOT = Path(__file__).resolve().parents[3]
RECORD = ROOT / "simulations" / "sample" / "records100" / "00000" / "00059_lr"


def stored(out: Path, stem: str) -> np.ndarray:
    """A written record's 8 independent leads, mV."""
    return to_independent(read_record(out / stem).signal)


def original() -> np.ndarray:
    return to_independent(read_record(RECORD).signal)
