"""Members and non-members of a model whose run is not at hand, from two CSV files.

Either a column ``ecg_id`` of records in a database, or columns ``file`` (an ECG file, relative to the CSV),
``patient_id`` and one per superclass with 0 or 1. A patient may be in one of the files only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lavq_core.data.cache import MICROVOLTS
from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import DataError
from lavq_core.formats.reading import read_usable
from lavq_core.progress import track
from lavq_core.signals.leads import to_independent
from simulations.audit.cohort import Cohort


@dataclass(frozen=True)
class _People:
    """The records of one file."""

    signals: np.ndarray  # (n, 8, T) int16 in uV
    y: np.ndarray  # (n, 5) float32
    patients: np.ndarray  # (n,)


def listed_cohort(
    members: str | Path, non_members: str | Path, database: Database | None, sampling_rate: int
) -> Cohort:
    """Read who was trained on and who was not.

    Args:
        members, non_members: CSV files, see the module.
        database: of the files that name records by ``ecg_id``.
        sampling_rate: Hz of the model; ECG files are brought to it.

    Raises:
        DataError: a file, a column or a record is missing, a label is not 0 or 1, or a patient is in both files.
    """
    people = [_read(Path(path), database, sampling_rate) for path in (members, non_members)]
    whose = np.concatenate([one.patients for one in people]).astype(str)
    trained = np.repeat([True, False], [len(one.patients) for one in people])  # (n,)
    patients, owner = np.unique(whose, return_inverse=True)
    member = np.zeros(len(patients), dtype=bool)
    member[owner[trained]] = True
    both = np.intersect1d(owner[trained], owner[~trained])
    if len(both):
        raise DataError(
            f"{len(both)} patients are in {members} and in {non_members}: whoever was trained on is a member, take "
            "their records out of the second file"
        )
    return Cohort(
        np.concatenate([one.signals for one in people]),
        np.concatenate([one.y for one in people]),
        owner.astype(np.int64),
        patients,
        member,
        np.arange(len(owner)),
    )


def _read(path: Path, database: Database | None, sampling_rate: int) -> _People:
    try:
        table = pd.read_csv(path.expanduser())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as a CSV table ({type(error).__name__}): give an existing one"
        ) from None
    if len(table) == 0:
        raise DataError(f"{path} lists nobody: an attack needs people of both kinds")
    if "ecg_id" in table.columns and database is not None:
        rows = database.positions_of(table["ecg_id"].astype(int).tolist())
        whose = database.table["patient_id"].to_numpy()[rows]
        return _People(np.asarray(database.packed[rows]), database.labels[rows], whose)
    missing = [name for name in ("file", "patient_id", *SUPERCLASSES) if name not in table.columns]
    if missing:
        raise DataError(
            f"{path} lacks the column {', '.join(missing)}: give file, patient_id and {', '.join(SUPERCLASSES)}, or "
            "ecg_id and --database"
        )
    y = table[list(SUPERCLASSES)].to_numpy()
    if not np.isin(y, (0, 1)).all():
        raise DataError(f"{path}: {', '.join(SUPERCLASSES)} take 0 and 1")
    files = [path.parent / str(name) for name in table["file"]]
    signals = [to_independent(read_usable(file, sampling_rate).signal) for file in track(files, f"reading {path.name}")]
    packed = np.rint(np.stack(signals) * MICROVOLTS).astype(np.int16)
    return _People(packed, y.astype(np.float32), table["patient_id"].to_numpy())
