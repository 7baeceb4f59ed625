"""An ECG out, in the format that the file's name asks for.

Only signal, leads, rate and the ECG's own notes are written. Whatever a file that was read said about its patient is
not in an ``Ecg``, so it cannot get out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lavq_core.data.records import Ecg, write_record
from lavq_core.errors import DataError

SUFFIXES = (".hea", ".dcm")


def write_ecg(path: str | Path, ecg: Ecg) -> Path:
    """Write one ECG, whole or not at all.

    Args:
        path: ``NAME.hea`` for WFDB (with ``NAME.dat`` beside it) or ``NAME.dcm`` for DICOM.
        ecg: its ``notes`` go into the file: the header's comments, or annotations.

    Returns:
        The path.

    Raises:
        DataError: another suffix, amplitudes beyond 32 mV, a name that WFDB does not allow, or a folder that cannot be
            written.
    """
    path = Path(path).expanduser()
    if path.suffix == ".hea":
        return write_record(path.parent, replace(ecg, name=path.stem), ecg.notes)
    if path.suffix == ".dcm":
        from lavq_core.formats.dicom_out import write_dicom

        return write_dicom(path, ecg)
    raise DataError(f"{path} names no format that lavq writes: end it with {' or '.join(SUFFIXES)}")
