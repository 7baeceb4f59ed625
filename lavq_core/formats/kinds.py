"""Which format a file is in: by what it holds first, by its name where the content does not say."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from lavq_core.errors import DataError

LARGEST = 50_000_000  # bytes of a file: a minute of 12 leads at 1,000 Hz has 9 MB as text
_TEXT = (".csv", ".tsv", ".txt")
_KNOWN = "give WFDB, DICOM, MUSE XML, EDF, CSV or NPY"
_FOREIGN = {
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"\xffBIOSEMI": "a BDF file",
}


class Kind(StrEnum):
    """A format that can be read."""

    WFDB = "WFDB"
    DICOM = "DICOM"
    XML = "XML"
    EDF = "EDF"
    CSV = "CSV"
    NPY = "NPY"


def kind_of(path: Path) -> Kind:
    """Tell the format of a file; a WFDB record may be named without suffix.

    Raises:
        DataError: there is no such file, it is too large, or it is nothing that can be read; a file whose content is
            not what its name says is refused with what it is.
    """
    if path.suffix in (".hea", ".dat") or path.with_name(f"{path.name}.hea").is_file():
        _check_size(path.with_suffix(".dat") if path.suffix in (".hea", ".dat") else path.with_name(f"{path.name}.dat"))
        return Kind.WFDB
    if path.is_dir():
        raise DataError(f"{path} is a folder: give one ECG file")
    if not path.is_file():
        raise DataError(f"no record at {path} (neither this file nor a .hea file of that name): check the path")
    _check_size(path)
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
    return _kind_of_content(path, head)


def _kind_of_content(path: Path, head: bytes) -> Kind:
    if not head:
        raise DataError(f"{path} is empty: export the ECG again")
    if head[128:132] == b"DICM":
        return Kind.DICOM
    if head.startswith(b"\x93NUMPY"):
        return Kind.NPY
    for mark, what in _FOREIGN.items():
        if head.startswith(mark):
            raise DataError(f"{path} is {what}, not an ECG that lavq reads: {_KNOWN}")
    if path.suffix.casefold() in _TEXT:
        return Kind.CSV
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<") or head.startswith(
        (b"\xff\xfe<", b"\xfe\xff\x00<")
    ):
        return Kind.XML
    if head.startswith(b"0       "):
        return Kind.EDF
    raise DataError(f"{path} holds no ECG that lavq reads: {_KNOWN}")


def _check_size(path: Path) -> None:
    size = path.stat().st_size if path.is_file() else 0
    if size > LARGEST:
        raise DataError(
            f"{path} has {size / 1e6:.0f} MB, more than the {LARGEST / 1e6:.0f} MB that one ECG may have: "
            "cut the recording to a minute"
        )
