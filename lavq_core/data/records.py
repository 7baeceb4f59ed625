"""One ECG, in and out: WFDB files on disk, (12, T) in mV inside."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import wfdb

from lavq_core.data.format16 import read_format16
from lavq_core.data.stored import Stored, read_wfdb
from lavq_core.errors import DataError
from lavq_core.signals.leads import INDEPENDENT_LEADS, LEADS, canonical_lead, derive_limb

_MILLIVOLTS = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "v": 1e3}  # both micro signs of Unicode
_GAIN = 1000  # ADC units per mV of the records that we write, as in PTB-XL: 1 uV a step


@dataclass(frozen=True)
class Ecg:
    """One 12-lead ECG."""

    name: str
    signal: np.ndarray  # (12, T) float32 in mV, order of ``LEADS``
    sampling_rate: float  # Hz
    present: np.ndarray  # (12,) bool: in the file; the others were derived from I and II

    def __post_init__(self) -> None:
        if self.signal.ndim != 2 or len(self.signal) != len(LEADS):
            raise ValueError(f"expected a signal of shape (12, T), got {self.signal.shape}")


def read_record(path: str | Path, sampling_rate: float | None = None) -> Ecg:
    """Read one WFDB record.

    Leads are found by name in any order and case; derived limb leads that are missing are computed from I and II, leads
    beyond the twelve are left out; mV, uV and V are taken as the header declares them.

    Args:
        path: the record, with or without ``.hea`` or ``.dat``.
        sampling_rate: Hz that the record must have; any when None. Records are never resampled.

    Raises:
        DataError: no such record, a missing, truncated or corrupt file, a missing independent lead, other units, or
            another rate.
    """
    path = Path(path)
    header = path.with_suffix(".hea") if path.suffix in (".hea", ".dat") else path.with_name(f"{path.name}.hea")
    stored = _read(header)
    if not stored.intact():
        raise DataError(f"{header.with_suffix('')} is corrupt (its checksum differs): copy the record again")
    if sampling_rate is not None and stored.sampling_rate != sampling_rate:
        raise DataError(
            f"{header.with_suffix('')} is sampled at {stored.sampling_rate:g} Hz where {sampling_rate:g} Hz is needed: "
            "give records of that rate"
        )
    return to_ecg(header.stem, stored)


def _read(header: Path) -> Stored:
    try:
        stored = read_format16(header)
    except FileNotFoundError:
        raise DataError(f"no record at {header.with_suffix('')} (no .hea file): check the path") from None
    except UnicodeDecodeError:
        raise DataError(f"{header} is not a WFDB header: copy the record again") from None
    except OSError as error:
        raise DataError(f"{header} cannot be read ({error.strerror}): check the path and its permissions") from None
    return stored if stored is not None else read_wfdb(header)


def to_ecg(name: str, stored: Stored) -> Ecg:
    """Find the leads by name, bring them to mV, and derive limb leads that are missing.

    Raises:
        DataError: a lead that is there twice, a missing independent lead, or an unknown unit.
    """
    rows: dict[str, int] = {}
    for row, given in enumerate(stored.names):
        lead = canonical_lead(given)
        if lead in rows:
            raise DataError(f"record {name} has two leads named {lead}: give one of each")
        if lead is not None:
            rows[lead] = row
    missing = [lead for lead in INDEPENDENT_LEADS if lead not in rows]
    if missing:
        raise DataError(
            f"record {name} lacks lead {', '.join(missing)} (it has {', '.join(stored.names)}): give 12-lead records"
        )
    signal = np.full((len(LEADS), stored.physical.shape[1]), np.nan, dtype=np.float32)
    for place, lead in enumerate(LEADS):
        if lead in rows:
            scale = _scale(name, lead, stored.units[rows[lead]])
            signal[place] = stored.physical[rows[lead]] * scale
    present = np.asarray([lead in rows for lead in LEADS])
    derived = derive_limb(signal[0:1], signal[1:2])  # (6, T)
    signal[~present] = derived[~present[:6]]  # only limb leads can be absent here
    return Ecg(name=name, signal=signal, sampling_rate=stored.sampling_rate, present=present)


def _scale(name: str, lead: str, unit: str) -> float:
    scale = _MILLIVOLTS.get(unit.strip().casefold())
    if scale is None:
        raise DataError(f"record {name} gives lead {lead} in {unit!r}: give it in mV, uV or V")
    return scale


def write_record(folder: str | Path, ecg: Ecg, comments: Sequence[str] = ()) -> Path:
    """Write one record as WFDB, 16 bits at 1 uV a step, both files or none.

    Args:
        folder: made if it is not there; files of the same record are replaced.
        ecg: the record; NaN is stored as WFDB's mark of a missing sample.
        comments: lines for the header, for example ``["SYNTHETIC"]``.

    Returns:
        Path of the header, ``folder/NAME.hea``.

    Raises:
        DataError: a name that WFDB does not allow, amplitudes beyond 32 mV, or a folder that cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", ecg.name):
        raise DataError(f"record name {ecg.name!r} is not allowed in WFDB: use letters, digits, - and _")
    digital = np.round(ecg.signal.astype(np.float64) * _GAIN).T  # (T, 12)
    if np.nanmax(np.abs(digital), initial=0.0) > np.iinfo(np.int16).max:
        raise DataError(f"record {ecg.name} exceeds 32 mV: it is no ECG in mV")
    digital = np.where(np.isnan(digital), np.iinfo(np.int16).min, digital).astype(np.int64)
    folder = Path(folder)
    leads = len(LEADS)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder, prefix=f".{ecg.name}."))
        try:
            wfdb.wrsamp(
                ecg.name,
                fs=ecg.sampling_rate,
                units=["mV"] * leads,
                sig_name=list(LEADS),
                d_signal=digital,
                fmt=["16"] * leads,
                adc_gain=[float(_GAIN)] * leads,
                baseline=[0] * leads,
                comments=list(comments),
                write_dir=str(temporary),
            )
            for suffix in (".dat", ".hea"):  # the header last: a record without one is none
                (temporary / f"{ecg.name}{suffix}").replace(folder / f"{ecg.name}{suffix}")
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"cannot write record {ecg.name} to {folder} ({reason}): choose another folder") from None
    return folder / f"{ecg.name}.hea"
