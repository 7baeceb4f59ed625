"""One ECG, in and out: WFDB files on disk, (12, T) in mV inside."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import wfdb

from lavq_core.data.format16 import read_format16
from lavq_core.data.stored import Stored, read_wfdb
from lavq_core.errors import DataError
from lavq_core.signals.leads import (
    CHEST_INDEX,
    INDEPENDENT_INDEX,
    LEADS,
    canonical_lead,
    complete_limb,
    derive_limb,
    known_leads,
)

_MILLIVOLTS = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "nv": 1e-6, "v": 1e3}  # both micro signs of Unicode
NEAR = 0.05  # mV, a residual of Einthoven's law below which leads agree
_GAIN = 1000  # ADC units per mV of the records that we write, as in PTB-XL: 1 uV a step


@dataclass(frozen=True)
class Ecg:
    """One 12-lead ECG."""

    name: str
    signal: np.ndarray  # (12, T) float32 in mV, order of ``LEADS``
    sampling_rate: float  # Hz
    present: np.ndarray  # (12,) bool: in the file; limb leads that are not were computed, chest leads are zero
    notes: tuple[str, ...] = ()  # what was done to the file's content; of a twin: that it is one

    def __post_init__(self) -> None:
        if self.signal.ndim != 2 or len(self.signal) != len(LEADS):
            raise ValueError(f"expected a signal of shape (12, T), got {self.signal.shape}")


def read_record(path: str | Path, most_blank: int = 0) -> Ecg:
    """Read one WFDB record.

    See ``to_ecg`` for leads and units.

    Args:
        path: the record, with or without ``.hea`` or ``.dat``.
        most_blank: chest leads that may be missing.

    Raises:
        DataError: no such record, a missing, truncated or corrupt file, a missing lead, or other units.
    """
    path = Path(path)
    header = path.with_suffix(".hea") if path.suffix in (".hea", ".dat") else path.with_name(f"{path.name}.hea")
    stored = _read(header)
    if not stored.intact():
        raise DataError(f"{header.with_suffix('')} is corrupt (its checksum differs): copy the record again")
    return to_ecg(header.stem, stored, most_blank)


def _read(header: Path) -> Stored:
    try:
        lines = header.read_text(encoding="utf-8").splitlines()
        files = [line.split()[0] for line in lines[1:] if line.strip() and not line.lstrip().startswith("#")]
        if any("/" in name or "\\" in name for name in files):
            raise DataError(f"{header} names a signal file in another folder: copy it beside the header")
        stored = read_format16(header)
    except FileNotFoundError:
        raise DataError(f"no record at {header.with_suffix('')} (no .hea file): check the path") from None
    except UnicodeDecodeError:
        raise DataError(f"{header} is not a WFDB header: copy the record again") from None
    except OSError as error:
        raise DataError(f"{header} cannot be read ({error.strerror}): check the path and its permissions") from None
    stored = stored if stored is not None else read_wfdb(header)
    synthetic = any(line.lstrip("# ").startswith("SYNTHETIC") for line in lines if line.startswith("#"))
    return replace(stored, notes=("SYNTHETIC: the file says that it is no recording",)) if synthetic else stored


def to_ecg(name: str, stored: Stored, most_blank: int = 0) -> Ecg:
    """Bring what a file holds into the internal form.

    Leads are found by name in any order and case. Limb leads that are missing are computed from two others, leads
    beyond the twelve are left out, and an aVR that is stored turned round, as in Cabrera's order, is turned back; mV,
    uV, nV and V are taken as declared.

    Args:
        name: of the record.
        stored: the file's content.
        most_blank: chest leads that may be missing; they are zero then, which a detector trained with lead dropout
            can read.

    Raises:
        DataError: fewer than two limb leads, more missing chest leads, a lead twice, or another unit.
    """
    rows, turned = _rows(name, stored)
    present = np.asarray([lead in rows for lead in LEADS])
    known = known_leads(present)
    missing = [LEADS[i] for i in INDEPENDENT_INDEX if not known[i]]
    limb = known[: CHEST_INDEX[0]].all()  # these may not be blank
    if missing and (len(missing) > most_blank or not limb):
        raise DataError(
            f"record {name} lacks lead {', '.join(missing)} (it has {', '.join(stored.names)}): give 12-lead records"
        )
    signal = np.full((len(LEADS), stored.physical.shape[1]), np.nan, dtype=np.float32)
    for place, lead in enumerate(LEADS):
        if lead in rows:
            scale = _scale(name, lead, stored.units[rows[lead]])
            signal[place] = stored.physical[rows[lead]] * (-scale if lead in turned else scale)
    signal = complete_limb(signal, present)
    signal[~known] = 0.0
    notes = [*stored.notes, *_notes(present, known, stored.names, rows)]
    if _is_turned(signal, present):
        signal[LEADS.index("aVR")] *= -1.0
        notes.append("aVR was stored turned round, as -aVR of Cabrera's order: turned back")
    return Ecg(name, signal, stored.sampling_rate, present, tuple(notes))


def _rows(name: str, stored: Stored) -> tuple[dict[str, int], set[str]]:
    """Find the leads: their rows, and those that are named as turned round (-aVR)."""
    rows: dict[str, int] = {}
    turned = set()
    for row, given in enumerate(stored.names):
        bare = given.strip().lstrip("-\u2212")  # hyphen and Unicode's minus
        lead = canonical_lead(bare)
        if lead is None:
            continue
        if lead in rows:
            raise DataError(f"record {name} has two leads named {lead}: give one of each")
        rows[lead] = row
        if bare != given.strip():
            turned.add(lead)
    return rows, turned


def _notes(present: np.ndarray, known: np.ndarray, names: Sequence[str], rows: dict[str, int]) -> list[str]:
    """Say what was computed, blanked and left out; names that are no short lead name are counted, not repeated."""
    computed = [lead for lead, there, got in zip(LEADS, present, known, strict=True) if got and not there]
    blank = [lead for lead, got in zip(LEADS, known, strict=True) if not got]
    others = [given for row, given in enumerate(names) if row not in rows.values()]
    notes = []
    if computed:
        source = [lead for lead, there in zip(LEADS[:6], present, strict=False) if there][:2]
        notes.append(f"{', '.join(computed)} computed from {' and '.join(source)}")
    if blank:
        notes.append(f"{', '.join(blank)} missing: read as a blank lead, which makes the detector less sure")
    if others:
        shown = ", ".join(name for name in others if re.fullmatch(r"[A-Za-z]{1,3}\d?[A-Za-z]?", name))
        notes.append(f"{len(others)} of {len(names)} channels left out{f' ({shown})' if shown else ''}")
    return notes


def _is_turned(signal: np.ndarray, present: np.ndarray) -> bool:
    """Tell whether aVR fits I and II only with its sign changed."""
    row = LEADS.index("aVR")
    if not present[row]:
        return False
    expected = derive_limb(signal[0:1], signal[1:2])[row]
    apart, turned = (float(np.abs(sign * signal[row] - expected).max(initial=0.0)) for sign in (1.0, -1.0))
    return apart > NEAR >= turned


def _scale(name: str, lead: str, unit: str) -> float:
    scale = _MILLIVOLTS.get(unit.strip().casefold())
    if scale is None:
        raise DataError(f"record {name} gives lead {lead} in {unit!r}: give it in mV, uV, nV or V")
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
    digital = digitise(ecg).T.astype(np.int64)  # (T, 12)
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


def digitise(ecg: Ecg) -> np.ndarray:
    """Round an ECG to 1 uV: (12, T) int16, -32768 where a sample is missing.

    Raises:
        DataError: amplitudes beyond 32 mV.
    """
    digital = np.round(ecg.signal.astype(np.float64) * _GAIN)
    limits = np.iinfo(np.int16)
    if np.nanmax(np.abs(digital), initial=0.0) > limits.max:
        raise DataError(f"record {ecg.name} exceeds 32 mV, as microvolts given as millivolts do: give its right unit")
    return np.where(np.isnan(digital), limits.min, digital).astype(np.int16)
