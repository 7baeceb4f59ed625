"""Any ECG file in, the internal form out."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from lavq_core.data.records import Ecg, read_record, to_ecg
from lavq_core.data.stored import Stored
from lavq_core.errors import DataError
from lavq_core.formats.fitting import fit
from lavq_core.formats.kinds import Kind, kind_of
from lavq_core.formats.options import ReadOptions
from lavq_core.signals.leads import CHEST_INDEX
from lavq_core.signals.quality import Verdict, assess

_UNTOLD = ReadOptions()
_CHANCE = 0.01  # share of training records that must have had as many blank leads


def read_ecg(path: str | Path, options: ReadOptions = _UNTOLD, most_blank: int = 0) -> Ecg:
    """Read one ECG as it is in its file: own rate and length.

    Args:
        path: WFDB record (with or without suffix), DICOM, MUSE XML, EDF, CSV or NPY, told by its content.
        options: rate, unit and leads of a CSV or NPY file.
        most_blank: chest leads that may be missing, see ``most_blank_leads``.

    Raises:
        DataError: it cannot be read, lacks leads or is in no unit of voltage; one line that says what to do.
    """
    path = Path(path).expanduser()
    kind = kind_of(path)
    if kind is Kind.WFDB:
        ecg = read_record(path, most_blank=most_blank)
    else:
        ecg = to_ecg(path.stem, _stored(path, kind, options), most_blank)
    if not (math.isfinite(ecg.sampling_rate) and ecg.sampling_rate > 0.0):
        raise DataError(f"{path} has a sampling rate of {ecg.sampling_rate:g} Hz: export it again")
    if ecg.signal.shape[1] == 0:
        raise DataError(f"{path} holds no samples: export it again")
    return ecg


def _stored(path: Path, kind: Kind, options: ReadOptions) -> Stored:
    """Read one file with its format's reader, which is imported only now: each brings its own libraries."""
    match kind:
        case Kind.DICOM:
            from lavq_core.formats.dicom_file import read_dicom

            return read_dicom(path)
        case Kind.XML:
            from lavq_core.formats.muse_xml import read_muse

            return read_muse(path)
        case Kind.EDF:
            from lavq_core.formats.edf_file import read_edf

            return read_edf(path)
        case Kind.CSV:
            from lavq_core.formats.csv_file import read_csv

            return read_csv(path, options)
        case _:
            from lavq_core.formats.npy_file import read_npy

            return read_npy(path, options)


def read_usable(path: str | Path, sampling_rate: int, options: ReadOptions = _UNTOLD, most_blank: int = 0) -> Ecg:
    """Read one ECG for models of a rate: resampled, cut to 10 s, and through the quality gate.

    Args:
        path: see ``read_ecg``.
        sampling_rate: Hz of the models.
        options: see ``read_ecg``, and where the 10 s begin.
        most_blank: see ``read_ecg``.

    Returns:
        The ECG; ``notes`` name what was done to it and what the gate flags.

    Raises:
        DataError: see ``read_ecg`` and ``fit``; or the gate rejects it, for the reasons that are named.
    """
    ecg = fit(read_ecg(path, options, most_blank), sampling_rate, options.start)
    blank = np.zeros(len(ecg.present), dtype=bool)
    blank[list(CHEST_INDEX)] = ~ecg.present[list(CHEST_INDEX)]
    quality = assess(ecg.signal[None], sampling_rate, ecg.present[None], blank[None])[0]
    if quality.verdict is Verdict.REJECT:
        advice = "its right unit" if any("given as" in reason for reason in quality.reasons) else "another recording"
        raise DataError(f"record {ecg.name} is rejected ({'; '.join(quality.reasons)}): give {advice}")
    return replace(ecg, notes=(*ecg.notes, *quality.reasons))


def most_blank_leads(lead_dropout: float, leads: int = 8) -> int:
    """Return how many leads may be blank for a detector that was trained with lead dropout.

    As many as at least one in a hundred of its training records had, and none without dropout.
    """
    for count in range(leads, 0, -1):
        tail = sum(
            math.comb(leads, k) * lead_dropout**k * (1.0 - lead_dropout) ** (leads - k) for k in range(count, leads + 1)
        )
        if tail >= _CHANCE:
            return count
    return 0
