"""An ECG as its file holds it, before lead names, units and completeness are judged; WFDB records through wfdb."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import wfdb

from lavq_core.errors import DataError


@dataclass(frozen=True)
class Stored:
    """One record in the header's own leads and units."""

    names: list[str]
    units: list[str]
    sampling_rate: float  # Hz
    physical: np.ndarray  # (leads, samples) float64 in ``units``; NaN where a sample is marked missing
    checksums: list[int] = field(default_factory=list)  # WFDB header's, one per lead; 0 where it gives none
    sums: np.ndarray = field(default_factory=lambda: np.zeros(0))  # (leads,) sum of the digital samples, of WFDB
    notes: tuple[str, ...] = ()  # what a reader of the record should know

    def intact(self) -> bool:
        """Tell whether the samples are those that the header was written for (16-bit checksums, header(5))."""
        pairs = zip(self.checksums, self.sums, strict=True)
        return all(given == 0 or (given - int(found)) % 65536 == 0 for given, found in pairs)


def read_wfdb(header: Path) -> Stored:
    """Read any record that wfdb can read.

    Raises:
        DataError: the signal file is missing or shorter than declared, or the header cannot be parsed.
    """
    stem = header.with_suffix("")
    try:
        record = wfdb.rdrecord(str(stem), physical=False)
        if not isinstance(record, wfdb.Record) or record.d_signal is None:
            raise DataError(f"{stem} has no single block of signals: give single-segment records with samples")
        physical = record.dac()  # (samples, leads)
    except FileNotFoundError as error:
        missing = Path(error.filename).name if error.filename else "signal file"
        raise DataError(f"{stem} has no signal file {missing}: copy it beside the header") from None
    except DataError:
        raise
    except Exception as error:  # wfdb raises IndexError, KeyError, ValueError, its own and more on damaged files
        raise DataError(f"{stem} is truncated or corrupt ({_reason(error)}): copy the record again") from None
    whole = all(frames == 1 for frames in record.samps_per_frame)  # sums of averaged frames prove nothing
    sums = np.asarray(record.d_signal).sum(axis=0, dtype=np.int64)
    return Stored(
        names=[str(name) for name in record.sig_name],
        units=[str(unit) for unit in record.units],
        sampling_rate=float(record.fs),
        physical=np.asarray(physical, dtype=np.float64).T,
        checksums=[int(value or 0) if whole else 0 for value in record.checksum],
        sums=sums,
    )


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
