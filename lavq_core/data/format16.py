"""The plain case of a WFDB record, read with numpy: all signals in one 16-bit file, one sample a frame.

PTB-XL is stored so. Reading it this way is several times as fast as through wfdb, which matters once, when a database
is packed. A header that is anything else is left to wfdb, and so is the error message. Format: header(5) and signal(5)
of the WFDB Applications Guide.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lavq_core.data.stored import Stored

INVALID = -32768  # format 16's mark of a missing sample
_RECORD = re.compile(r"\S+ (\d+) (\d+(?:\.\d+)?) (\d+)")
_SIGNAL = re.compile(r"^([^\s/\\]+) 16 (\d+(?:\.\d+)?)\((-?\d+)\)/(\S+) \d+ 0 -?\d+ (-?\d+) 0 (.+)$", re.MULTILINE)


class Header(NamedTuple):
    """What a header says of its signals, as written; one entry a signal."""

    gain: tuple[str, ...]  # ADC units per physical unit
    baseline: tuple[str, ...]  # ADC units
    units: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Digital:
    """A record of the plain case, as its files have it."""

    frames: np.ndarray  # (samples, signals) int16
    header: Header
    sampling_rate: float  # Hz
    checksums: list[int]  # of each signal; 0 where the header gives none


def read_digital(path: Path) -> Digital | None:
    """Read a record by its header, or return None when this or its file is not the plain case."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    record = _RECORD.fullmatch(lines[0]) if lines else None
    signals = _SIGNAL.findall("\n".join(lines[1:]))
    if record is None or not len(signals) == len(lines) - 1 == int(record[1]) > 0:
        return None
    files, gain, baseline, units, checksums, names = zip(*signals, strict=True)
    samples = int(record[3])
    content = _read_whole(path.with_name(files[0]), 2 * samples * len(signals))
    if len(set(files)) > 1 or not content:
        return None
    return Digital(
        frames=np.frombuffer(content, dtype="<i2").reshape(samples, len(signals)),
        header=Header(gain, baseline, units, names),
        sampling_rate=float(record[2]),
        checksums=[int(checksum) for checksum in checksums],
    )


def _read_whole(path: Path, size: int) -> bytes:
    """Read the first ``size`` bytes of a file; none when it is shorter, or no file that can be read."""
    try:
        with path.open("rb", buffering=0) as file:
            return file.read(size) if os.fstat(file.fileno()).st_size >= size else b""
    except OSError:
        return b""


def read_format16(header: Path) -> Stored | None:
    """Read a record in physical units, or return None when its header or its file is not the plain case."""
    read = read_digital(header)
    if read is None:
        return None
    gain, baseline = (np.asarray(values, dtype=np.float64) for values in (read.header.gain, read.header.baseline))
    if not (gain > 0).all():
        return None
    digital = np.ascontiguousarray(read.frames.T)  # (leads, samples); all that follows goes lead by lead
    physical = (digital - baseline[:, None]) / gain[:, None]
    physical[digital == INVALID] = np.nan
    return Stored(
        names=list(read.header.names),
        units=list(read.header.units),
        sampling_rate=read.sampling_rate,
        physical=physical,
        checksums=read.checksums,
        sums=digital.sum(axis=1, dtype=np.int64),
    )
