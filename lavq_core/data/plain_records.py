"""Twelve-lead records of the plain case (``format16``), many at a time, as a database is packed.

Their signals are ``read_record``'s bit for bit. Whatever is not plain (another unit, length or rate, a missing or
turned lead, a damaged file) is left to that: it knows what to do, or what to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lavq_core.data.format16 import INVALID, Digital, Header, read_digital
from lavq_core.data.records import NEAR
from lavq_core.signals.leads import LEADS, canonical_lead

_WHOLE = 2.0**23  # below, baselines and what is left without them are exact in float32
_I, _II, _AVR = (LEADS.index(lead) for lead in ("I", "II", "aVR"))


class _Leads(NamedTuple):
    """How a header's signals become the twelve leads."""

    row: np.ndarray  # (12,) int64, of each lead
    gain: np.ndarray  # (12, 1) float32, ADC units per mV
    baseline: np.ndarray  # (12, 1) float32


def read_plain(files: Sequence[str], sampling_rate: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Read the records that are plain.

    Args:
        files: n records, without a suffix.
        sampling_rate: Hz that a record must have.
        samples: T that a record must have.

    Returns:
        Signals ``(m, 12, T)`` float32 in mV, and which records these are, ``(n,)`` bool.
    """
    found = [_read(Path(f"{file}.hea"), sampling_rate, samples) for file in files]
    read = [both for both in found if both is not None]
    plain = np.array([both is not None for both in found], dtype=bool)
    if not read:
        return np.zeros((0, len(LEADS), samples), np.float32), plain
    row, gain, baseline = (np.stack(part) for part in zip(*(leads for _, leads in read), strict=True))
    frames = np.stack([digital.frames for digital, _ in read])  # (m, T, 12)
    digital = frames.swapaxes(1, 2)[np.arange(len(frames))[:, None], row]  # (m, 12, T)
    # A quotient of numbers that are exact in float32 is rounded to it once or, by way of float64, twice to the same.
    signals = digital.astype(np.float32)
    signals -= baseline
    signals /= gain
    signals[digital == INVALID] = np.nan
    sums = digital.view(np.uint16).sum(axis=-1, dtype=np.uint16).astype(np.int64)  # (m, 12), as checksums: mod 65,536
    given = np.take_along_axis(np.array([digital.checksums for digital, _ in read]), row, axis=1)
    intact = ((given == 0) | ((given - sums) % 65536 == 0)).all(axis=1)
    turned = np.abs(signals[:, _AVR] + (signals[:, _I] + signals[:, _II]) / 2).max(axis=1) > NEAR
    sound = intact & ~turned
    plain[plain] = sound
    return signals if sound.all() else signals[sound], plain


def _read(header: Path, sampling_rate: int, samples: int) -> tuple[Digital, _Leads] | None:
    try:
        read = read_digital(header)
    except (OSError, UnicodeDecodeError):
        return None
    if read is None or read.sampling_rate != sampling_rate or len(read.frames) != samples:
        return None
    leads = _leads(read.header)
    return None if leads is None else (read, leads)


@lru_cache(maxsize=64)
def _leads(header: Header) -> _Leads | None:
    """Find the twelve leads in a header; None where they are not all there, alone, upright and in mV."""
    names = [canonical_lead(name) for name in header.names]
    if sorted(map(str, names)) != sorted(LEADS):
        return None
    gain, baseline = (np.asarray(values, dtype=np.float64) for values in (header.gain, header.baseline))
    exact = (gain > 0) & (gain == gain.astype(np.float32)) & (np.abs(baseline) < _WHOLE)
    if not exact.all() or any(unit.strip().casefold() != "mv" for unit in header.units):
        return None
    row = np.array([names.index(lead) for lead in LEADS])
    return _Leads(row, gain[row, None].astype(np.float32), baseline[row, None].astype(np.float32))
