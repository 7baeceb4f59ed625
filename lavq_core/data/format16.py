"""The plain case of a WFDB record, read with numpy: all signals in one 16-bit file, one sample a frame.

PTB-XL is stored so. Reading it this way is several times as fast as through wfdb, which matters once, when a database
is packed. A header that is anything else is left to wfdb, and so is the error message. Format: header(5) and signal(5)
of the WFDB Applications Guide.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from lavq_core.data.stored import Stored

_RECORD = re.compile(r"\S+ (\d+) (\d+(?:\.\d+)?) (\d+)")
_SIGNAL = re.compile(r"(\S+) 16 (\d+(?:\.\d+)?)\((-?\d+)\)/(\S+) \d+ 0 -?\d+ (-?\d+) 0 (.+)")
_INVALID = -32768  # format 16's mark of a missing sample


def read_format16(header: Path) -> Stored | None:
    """Read a record, or return None when its header or its file is not the plain case."""
    lines = [line.strip() for line in header.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    record = _RECORD.fullmatch(lines[0]) if lines else None
    signals = [_SIGNAL.fullmatch(line) for line in lines[1:]]
    if record is None or len(signals) != int(record[1]) or not signals:
        return None
    rows = [match.groups() for match in signals if match is not None]
    if len(rows) != len(signals) or len({row[0] for row in rows}) != 1:
        return None
    file, samples = header.parent / rows[0][0], int(record[3])
    if not file.is_file() or file.stat().st_size < 2 * samples * len(rows) or samples == 0:
        return None
    gain = np.asarray([float(row[1]) for row in rows])  # ADC units per physical unit
    if not (gain > 0).all():
        return None
    baseline = np.asarray([float(row[2]) for row in rows])
    frames = np.fromfile(file, dtype="<i2", count=samples * len(rows)).reshape(samples, len(rows))
    digital = np.ascontiguousarray(frames.T)  # (leads, samples); all that follows goes lead by lead
    physical = (digital - baseline[:, None]) / gain[:, None]
    physical[digital == _INVALID] = np.nan
    return Stored(
        names=[row[5] for row in rows],
        units=[row[3] for row in rows],
        sampling_rate=float(record[2]),
        physical=physical,
        checksums=[int(row[4]) for row in rows],
        sums=digital.sum(axis=1, dtype=np.int64),
    )
