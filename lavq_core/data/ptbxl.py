"""The tables of a database in PTB-XL's layout (Wagner et al., Scientific Data 2020; PhysioNet): read and validated.

A folder holds ``ptbxl_database.csv`` (a row per record), ``scp_statements.csv`` (a row per statement) and the WFDB
files that the first one names. Facts that the reader takes care of: identifiers stored as floats, gaps in ``ecg_id``,
age 300 for "over 89", a site that is unknown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from lavq_core.data.labels import parse_statements
from lavq_core.errors import DataError

TABLE = "ptbxl_database.csv"
STATEMENTS = "scp_statements.csv"
FILE_COLUMNS = {100: "filename_lr", 500: "filename_hr"}
COLUMNS = ("patient_id", "age", "sex", "site", "device", "recording_date", "report", "scp_codes", "strat_fold")
UNKNOWN_SITE = -1
OVER_89 = 90.0  # years, in place of PTB-XL's 300


@dataclass(frozen=True)
class Tables:
    """A database's tables, before any signal was read."""

    listing: pd.DataFrame  # every row, typed, indexed by ecg_id; see ``read_tables``
    faults: dict[int, str]  # ecg_id of rows that cannot be used, and why
    statements: pd.DataFrame  # scp_statements.csv, indexed by code
    digest: str  # sha256 of both files' bytes


def read_tables(folder: str | Path, sampling_rate: int = 100) -> Tables:
    """Read and validate both tables.

    The listing has patient_id, site (-1 where unknown) and strat_fold as int64, age (NaN where unknown, 90 for over 89)
    as float64, sex (0 male, 1 female, -1 unknown) as int64, device and report as text, recording_date as datetime (NaT
    where unknown), scp_codes as dict, statements as tuple of codes, and file: the record relative to the folder.

    Raises:
        DataError: the folder or a table is missing, unreadable or empty, a column is missing, ``ecg_id`` is not unique.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DataError(f"no data folder at {folder}: give a folder in PTB-XL's layout, the one that holds {TABLE}")
    if sampling_rate not in FILE_COLUMNS:
        raise DataError(f"records at {sampling_rate} Hz are not in PTB-XL's layout: choose 100 or 500 Hz")
    if not any(folder.iterdir()):
        raise DataError(f"{folder} is empty: give a folder in PTB-XL's layout, the one that holds {TABLE}")
    file_column = FILE_COLUMNS[sampling_rate]
    raw = _read_csv(folder / TABLE, ("ecg_id", *COLUMNS, file_column))
    statements = _read_csv(folder / STATEMENTS, ("description", "diagnostic", "diagnostic_class"))
    statements = statements.set_index(statements.columns[0])
    if raw.empty:
        raise DataError(f"{folder / TABLE} lists no record: copy the database again")
    listing, faults = _typed(raw, file_column, folder / TABLE)
    digest = hashlib.sha256()
    for name in (TABLE, STATEMENTS):
        digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return Tables(listing, faults, statements, digest.hexdigest())


def _read_csv(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a CSV that must have ``columns``."""
    if not path.is_file():
        raise DataError(f"no {path.name} in {path.parent}: give a folder in PTB-XL's layout")
    try:
        table = pd.read_csv(path, low_memory=False)
    except (ValueError, OSError) as error:  # pandas' parser errors and UnicodeDecodeError are ValueErrors
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{path} cannot be read as a CSV table ({reason}): copy it again") from None
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise DataError(f"{path} lacks the column {', '.join(missing)}: give PTB-XL's own table")
    return table


def _typed(raw: pd.DataFrame, file_column: str, path: Path) -> tuple[pd.DataFrame, dict[int, str]]:
    """Bring the columns to their types; rows where that fails are kept with defaults and named in the faults."""
    ids = _whole(raw["ecg_id"])
    if ids.isna().any() or ids.duplicated().any():
        where = int(np.flatnonzero((ids.isna() | ids.duplicated()).to_numpy())[0]) + 2
        raise DataError(f"{path} line {where}: ecg_id is missing, repeated or no whole number: copy the table again")
    raw = raw.set_axis(pd.Index(ids.astype("int64"), name="ecg_id"), axis=0)
    faults: dict[int, list[str]] = {}

    def need(column: str, values: pd.Series, valid: pd.Series) -> pd.Series:
        for ecg_id in values.index[~valid]:
            value = raw.at[ecg_id, column]
            what = "missing" if pd.isna(value) else f"'{value}'"
            faults.setdefault(int(ecg_id), []).append(f"{column} is {what} in {TABLE}")
        return values.where(valid, -1).astype("int64")

    patient, fold = _whole(raw["patient_id"]), _whole(raw["strat_fold"])
    age = pd.to_numeric(raw["age"], errors="coerce")
    codes, bad_codes = _parse_codes(raw["scp_codes"])
    for ecg_id, reason in bad_codes.items():
        faults.setdefault(ecg_id, []).append(f"{reason} in {TABLE}")
    file = raw[file_column].fillna("").astype(str)
    for ecg_id in file.index[[not _inside(name) for name in file]]:
        faults.setdefault(int(ecg_id), []).append(f"{file_column} names no file of the folder")
    listing = pd.DataFrame(
        {
            "patient_id": need("patient_id", patient, patient.notna()),
            "site": _whole(raw["site"]).fillna(UNKNOWN_SITE).astype("int64"),
            "strat_fold": need("strat_fold", fold, fold.between(1, 10)),
            "age": age.where(age <= 120, OVER_89).where(age.notna()).astype("float64"),
            "sex": _whole(raw["sex"]).fillna(-1).astype("int64"),
            "device": raw["device"].fillna("").astype(str),
            "recording_date": pd.to_datetime(raw["recording_date"], errors="coerce"),
            "report": raw["report"].fillna("").astype(str),
            "scp_codes": codes,
            "statements": [tuple(value) for value in codes],
            "file": file,
        },
        index=raw.index,
    )
    return listing, {ecg_id: "; ".join(reasons) for ecg_id, reasons in faults.items()}


def _whole(column: pd.Series) -> pd.Series:
    """Whole numbers as float64, NaN for everything else."""
    numbers = pd.to_numeric(column, errors="coerce").astype("float64")
    return numbers.where(np.isfinite(numbers) & (numbers == numbers.round()))


def _parse_codes(column: pd.Series) -> tuple[pd.Series, dict[int, str]]:
    codes, bad = [], {}
    for ecg_id, text in column.items():
        try:
            codes.append(parse_statements(str(text)))
        except DataError as error:
            codes.append({})
            bad[int(str(ecg_id))] = str(error)
    return pd.Series(codes, index=column.index, dtype=object), bad


def _inside(name: str) -> bool:
    """Tell whether a file name from the table stays inside the database's folder."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts
