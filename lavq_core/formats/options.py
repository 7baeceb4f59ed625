"""What the reader of an ECG file is told; of a CSV or NPY file, what it does not say of itself. Nothing is guessed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lavq_core.data.stored import Stored
from lavq_core.errors import DataError


@dataclass(frozen=True)
class ReadOptions:
    """Told by whoever hands in a file."""

    sampling_rate: float | None = None  # Hz, of a CSV or NPY file
    unit: str = ""  # mV, uV, nV or V, of every lead of a CSV or NPY file
    leads: tuple[str, ...] = ()  # of a CSV or NPY file, in its order; empty: a CSV names them in its first line
    start: float = 0.0  # s, where the 10 s that are used begin in a longer recording


def stored_table(path: Path, table: np.ndarray, options: ReadOptions) -> Stored:
    """Give a table of numbers its leads, unit and rate.

    Args:
        path: for messages.
        table: (T, leads) or (leads, T); which of both is told by the number of leads.
        options: complete but for what the caller filled in.

    Raises:
        DataError: rate, unit or leads are not told, or the leads are not as many as the table has.
    """
    if options.sampling_rate is None:
        raise DataError(f"{path} does not say its sampling rate: give it with --sampling-rate HZ")
    if not options.unit:
        raise DataError(f"{path} does not say its unit: give it with --unit mV, uV, nV or V")
    if not options.leads:
        raise DataError(f"{path} does not name its leads: give them in the file's order with --leads I,II,V1,...")
    count = len(options.leads)
    if table.ndim != 2 or count not in table.shape:
        shape = " x ".join(map(str, table.shape))
        raise DataError(f"{path} holds {shape} numbers, which are not {count} leads: name as many leads as it has")
    signal = table.T if table.shape[1] == count else table
    return Stored(
        names=list(options.leads),
        units=[options.unit] * count,
        sampling_rate=float(options.sampling_rate),
        physical=np.asarray(signal, dtype=np.float64),
    )
