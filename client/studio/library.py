"""The ECGs that the studio offers: the bundled sample, and a folder that the user names."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lavq_core.data.labels import SUPERCLASSES, superclass_of
from lavq_core.data.ptbxl import TABLE, read_tables
from lavq_core.errors import DataError

_MOST = 20_000  # records listed; a folder of more is named by a smaller one
_OTHERS = (".dcm", ".xml", ".edf")  # beside WFDB
_SEX = {0: "male", 1: "female"}


@dataclass(frozen=True)
class Entry:
    """One ECG that can be chosen."""

    key: str  # path inside the folder; the only name under which it is read
    label: str  # for people
    healthy: bool  # known to be NORM and nothing else
    age: float | None  # years
    sex: str  # male, female or unknown


@dataclass(frozen=True)
class Library:
    """A folder's ECGs by key. Nothing else can be read through it."""

    name: str
    folder: Path
    entries: dict[str, Entry]

    @classmethod
    def of(cls, name: str, folder: str | Path, sampling_rate: int) -> Library:
        """List a folder: one in PTB-XL's layout by its table, healthy ECGs first, any other by its files.

        CSV and NPY files are not listed: they do not say their rate and unit.

        Raises:
            DataError: no such folder, no ECG in it, or a table that cannot be read.
        """
        folder = Path(folder).expanduser().resolve()
        if not folder.is_dir():
            raise DataError(f"no folder at {folder}: give one that holds ECGs")
        listed = _from_table(folder, sampling_rate) if (folder / TABLE).is_file() else _from_files(folder)
        entries = {entry.key: entry for entry in sorted(listed, key=lambda entry: not entry.healthy)}
        if not entries:
            raise DataError(f"{folder} holds no ECG: give a folder of WFDB, DICOM, MUSE XML or EDF files")
        return cls(name, folder, entries)

    def path(self, key: object) -> Path:
        """Return the path of a listed ECG.

        Raises:
            DataError: the key is not in the list.
        """
        if not isinstance(key, str) or key not in self.entries:
            raise DataError("this ECG is not in the list: load the page again")
        return self.folder / key

    def listing(self) -> dict[str, Any]:
        """What the page shows of it."""
        return {"name": self.name, "records": [asdict(entry) for entry in self.entries.values()]}


def _from_table(folder: Path, sampling_rate: int) -> Iterator[Entry]:
    tables = read_tables(folder, sampling_rate)
    classes = superclass_of(tables.statements)
    present = _files(folder)
    for ecg_id, row in tables.listing.iterrows():
        if row["file"] in present and ecg_id not in tables.faults:
            found = {classes[code] for code in row["statements"] if code in classes}
            labels = "+".join(name for name in SUPERCLASSES if name in found) or "no diagnosis"
            yield _entry(str(ecg_id), labels, found == {"NORM"}, row)


def _entry(ecg_id: str, labels: str, healthy: bool, row: pd.Series) -> Entry:
    age = None if math.isnan(row["age"]) else float(row["age"])
    sex = _SEX.get(int(row["sex"]), "unknown")
    person = [word for word in (sex if sex != "unknown" else "", "" if age is None else f"{age:.0f}") if word]
    return Entry(row["file"], " · ".join([ecg_id, labels, " ".join(person)]).strip(" ·"), healthy, age, sex)


def _from_files(folder: Path) -> Iterator[Entry]:
    return (Entry(key, key, False, None, "unknown") for key in sorted(_files(folder)))


def _files(folder: Path) -> set[str]:
    """ECG files below a folder, WFDB records without suffix; links that lead out of it are not followed."""
    found: set[str] = set()
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in map(Path(here).relative_to(folder).joinpath, files):
            if file.suffix.casefold() in _OTHERS:
                found.add(file.as_posix())
            elif file.suffix == ".hea":
                found.add(file.with_suffix("").as_posix())
        if len(found) > _MOST:
            raise DataError(f"{folder} holds more than {_MOST:,} ECGs: give a smaller folder")
    return found
