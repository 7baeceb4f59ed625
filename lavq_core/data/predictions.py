"""Anybody's predictions, checked and put beside the truth of a database; no signal is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lavq_core.data.labels import SUPERCLASSES, superclass_labels, superclass_of
from lavq_core.data.ptbxl import read_tables
from lavq_core.errors import DataError


@dataclass(frozen=True)
class Judged:
    """Predictions beside the truth: row i of each is the same record."""

    table: pd.DataFrame  # of the database, indexed by ecg_id; columns of ``read_tables``
    labels: np.ndarray  # (n, 5) of 0 and 1
    probabilities: np.ndarray  # (n, 5)
    listed: pd.Series  # fold of every record that the database lists, indexed by ecg_id

    def in_fold(self, fold: int) -> np.ndarray:
        """Return the rows of a fold."""
        return np.flatnonzero(self.table["strat_fold"] == fold)

    def missing(self, fold: int) -> int:
        """Count the records of a fold that nobody scored."""
        return int((self.listed == fold).sum()) - len(self.in_fold(fold))


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Read a CSV with a column ``ecg_id`` and one per superclass; other columns are left aside.

    Returns:
        Probabilities in the order of ``SUPERCLASSES``, indexed by ecg_id.

    Raises:
        DataError: no such file, a column is missing, an id is repeated or no whole number, or a value is no
            probability. The message names the first such record.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"no predictions at {path}: give the CSV file that `lavq detect` wrote, or one like it")
    try:
        table = pd.read_csv(path, low_memory=False)
    except (ValueError, OSError) as error:  # pandas' parser errors and UnicodeDecodeError are ValueErrors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} cannot be read as a CSV table ({reason}): write it again") from None
    missing = [name for name in ("ecg_id", *SUPERCLASSES) if name not in table.columns]
    if missing:
        raise DataError(f"{path} lacks the column {', '.join(missing)}: it needs ecg_id and {', '.join(SUPERCLASSES)}")
    ids = pd.to_numeric(table["ecg_id"], errors="coerce")
    wrong = ids.isna() | (ids != ids.round())
    if wrong.any():
        line = int(np.flatnonzero(wrong)[0]) + 2
        raise DataError(f"{path} line {line}: ecg_id {table['ecg_id'].iloc[line - 2]!r} is no whole number: correct it")
    if ids.duplicated().any():
        raise DataError(f"{path} scores record {int(ids[ids.duplicated()].iloc[0])} more than once: keep one row each")
    scores = table[list(SUPERCLASSES)].apply(pd.to_numeric, errors="coerce")
    scores = scores.set_axis(pd.Index(ids.astype("int64"), name="ecg_id"), axis=0)
    for name in SUPERCLASSES:
        bad = ~scores[name].between(0.0, 1.0)  # NaN and text are neither
        if bad.any():
            given = table.loc[bad.to_numpy(), name].iloc[0]
            raise DataError(
                f"{path}: {name} of record {scores.index[bad][0]} is {given}, no probability from 0 to 1: correct it"
            )
    return scores


def judge_predictions(predictions: pd.DataFrame, folder: str | Path, minimum_likelihood: float = 0.0) -> Judged:
    """Look up what the database says of the records that were scored.

    Args:
        predictions: of ``read_predictions``.
        folder: in PTB-XL's layout; only its tables are read.
        minimum_likelihood: per cent, of a diagnostic statement that counts; 0 counts every statement present.

    Raises:
        DataError: the folder cannot be used, or a record is not listed or its row has a fault.
    """
    tables = read_tables(folder)
    _require_listed([int(i) for i in predictions.index], tables.listing.index, folder)
    faults = [i for i in predictions.index if int(i) in tables.faults]
    if faults:
        raise DataError(f"record {faults[0]} cannot be judged ({tables.faults[int(faults[0])]}): leave its row out")
    table = tables.listing.loc[predictions.index]
    labels = superclass_labels(table["scp_codes"], superclass_of(tables.statements), minimum_likelihood)
    return Judged(table, labels, predictions.to_numpy(dtype=float), tables.listing["strat_fold"])


def _require_listed(ecg_ids: Sequence[int], listed: pd.Index, folder: str | Path) -> None:
    unknown = [i for i in ecg_ids if i not in listed]
    if unknown:
        raise DataError(
            f"{len(unknown)} of {len(ecg_ids)} scored records are not listed in {folder}, the first is {unknown[0]}: "
            "give the database that they come from"
        )
