"""A database of ECGs, opened: table, labels and signals of the records that passed the quality gate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lavq_core.data.beat_cache import open_beats
from lavq_core.data.cache import MICROVOLTS, default_cache_dir, open_pack
from lavq_core.data.description_cache import Network, open_descriptions, open_network_descriptions
from lavq_core.data.labels import SUPERCLASSES, superclass_labels, superclass_of
from lavq_core.data.ptbxl import read_tables
from lavq_core.errors import DataError
from lavq_core.runs.layout import write_atomic
from lavq_core.settings import DataConfig
from lavq_core.signals.beats import Beats
from lavq_core.signals.quality import Verdict

Positions = Sequence[int] | np.ndarray | torch.Tensor
"""Places in ``Database.table``, from 0."""


@dataclass(frozen=True)
class Database:
    """The usable records of one database. Position i means row i of ``table``, ``labels`` and the signals."""

    folder: Path
    sampling_rate: int  # Hz
    table: pd.DataFrame  # usable records in table order, indexed by ecg_id; columns of ``read_tables`` and a class each
    labels: np.ndarray  # (n, 5) float32 of 0 and 1, order of ``SUPERCLASSES``
    quality: pd.DataFrame  # every record listed, indexed by ecg_id: verdict, reasons, file, owner (see ``open``)
    statements: pd.DataFrame  # scp_statements.csv, indexed by code
    fingerprint: str  # sha256 of tables and signals
    packed: np.ndarray  # (n, 8, T) int16 in uV, memory-mapped
    pack: Path  # folder of the pack in the cache

    @classmethod
    def open(
        cls,
        folder: str | Path,
        sampling_rate: int = 100,
        cache_dir: str | Path | None = None,
        minimum_likelihood: float = 0.0,
        progress: bool = True,
    ) -> Database:
        """Open a folder in PTB-XL's layout; its signals are packed the first time.

        A record that cannot be used is rejected and named in ``quality``; it never stops the others. Its ``owner`` is
        the position whose data report counts it: a record of the same patient, else of the same recording site.

        Args:
            folder: holds ``ptbxl_database.csv`` and ``scp_statements.csv``.
            sampling_rate: 100 or 500 Hz.
            cache_dir: where packs lie; the user's cache folder when left out.
            minimum_likelihood: per cent, of a diagnostic statement that counts; 0 counts every statement present.
            progress: show a bar while more than 500 records are packed.

        Raises:
            DataError: the folder, a table or a column is missing, or no record can be used.
        """
        folder = Path(folder).expanduser()
        tables = read_tables(folder, sampling_rate)
        cache = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
        pack = open_pack(folder, tables, sampling_rate, cache, progress)
        table = tables.listing.loc[pack.ecg_ids].copy()
        labels = superclass_labels(table["scp_codes"], superclass_of(tables.statements), minimum_likelihood)
        table[list(SUPERCLASSES)] = labels.astype("int64")
        quality = pd.DataFrame(
            {
                "verdict": [pack.quality[int(i)].verdict.value for i in tables.listing.index],
                "reasons": ["; ".join(pack.quality[int(i)].reasons) for i in tables.listing.index],
                "file": tables.listing["file"],
            }
        )
        quality["owner"] = _owners(tables.listing, table)
        return cls(
            folder, sampling_rate, table, labels, quality, tables.statements, pack.fingerprint, pack.signals, pack.place
        )

    @classmethod
    def configured(cls, config: DataConfig, folder: str | Path | None = None, progress: bool = True) -> Database:
        """Open the database that the settings name, or another ``folder`` with the same settings; see ``open``."""
        where = config.dir if folder is None else folder
        return cls.open(where, config.sampling_rate, config.cache_dir, config.minimum_likelihood, progress)

    def __len__(self) -> int:
        return len(self.table)

    def signals(self, positions: Positions) -> torch.Tensor:
        """Read signals from the memory map: float32 (m, 8, T) in mV, leads of ``INDEPENDENT_LEADS``."""
        chosen = self.packed[self._all(positions)]  # (m, 8, T) int16, a copy
        return torch.from_numpy(chosen.astype(np.float32)).div_(MICROVOLTS)

    @cached_property
    def beats(self) -> Beats:
        """Every record in the beat frame, found the first time and kept beside the pack."""
        return open_beats(self.pack, self.packed, self.sampling_rate)

    @cached_property
    def descriptions(self) -> np.ndarray:
        """Every record's fixed description (n, SIZE), computed the first time and kept beside the pack."""
        return open_descriptions(self.pack, self.packed, self.sampling_rate, self.beats)

    def described(self, positions: Positions, network: Network | None = None) -> torch.Tensor:
        """Read what a features detector sees of some records: float32 (m, SIZE), and the network's numbers behind."""
        rows = self._all(positions)
        parts = [self.descriptions[rows]]
        if network is not None:
            parts.append(open_network_descriptions(self.pack, self.packed, network)[rows])
        return torch.from_numpy(np.concatenate(parts, axis=1))

    def positions_of(self, ecg_ids: Sequence[int]) -> np.ndarray:
        """Return the positions of records by ``ecg_id``, in the order asked.

        Raises:
            DataError: a record is not among the usable ones.
        """
        positions = self.table.index.get_indexer(pd.Index(ecg_ids))
        if (positions < 0).any():
            absent = int(np.asarray(ecg_ids)[positions < 0][0])
            listed = absent in self.quality.index
            why = f"was rejected ({self.quality.at[absent, 'reasons']})" if listed else "is not listed"
            raise DataError(f"record {absent} {why}: choose another of {self.folder}")
        return positions

    def in_folds(self, *folds: int) -> np.ndarray:
        """Return the positions of the records in these stratification folds, ascending."""
        return np.flatnonzero(self.table["strat_fold"].isin(folds))

    def norm_only(self) -> np.ndarray:
        """Tell which records carry NORM and no other superclass: (n,) bool."""
        return (self.labels[:, 0] == 1) & (self.labels[:, 1:].sum(axis=1) == 0)

    def healthy_references(self, positions: Positions | None = None) -> np.ndarray:
        """Return each patient's earliest NORM-only record, for patients who have one; ascending positions.

        Earliest by recording date, records without a date last, then by ecg_id.
        """
        table = self._rows(positions).assign(_norm=self.norm_only()[self._all(positions)])
        chosen = chronological(table[table["_norm"]]).drop_duplicates("patient_id")
        return np.sort(self.table.index.get_indexer(chosen.index))

    def write_data_report(self, path: str | Path, positions: Positions | None = None) -> None:
        """Write what these records are, and by name which others were rejected or flagged, as JSON.

        Counts of records, patients, superclasses, folds and recording sites; see ``data_report``.
        """
        write_atomic(Path(path), json.dumps(self.data_report(positions), indent=2) + "\n")

    def data_report(self, positions: Positions | None = None) -> dict[str, object]:
        """Return the data report of some positions, or of the whole database, as a dict."""
        chosen, table = self._all(positions), self._rows(positions)
        mine = self.quality[self.quality["owner"].isin(chosen)]
        listed = {
            verdict: [
                {"ecg_id": int(str(i)), "file": row["file"], "reasons": row["reasons"]}
                for i, row in mine[mine["verdict"] == verdict].iterrows()
            ]
            for verdict in (Verdict.REJECT.value, Verdict.FLAG.value)
        }
        return {
            "database": self.folder.name,
            "fingerprint": self.fingerprint,
            "sampling_rate": self.sampling_rate,
            "records": len(table),
            "patients": int(table["patient_id"].nunique()),
            "superclasses": {name: int(table[name].sum()) for name in SUPERCLASSES},
            "folds": _counts(table["strat_fold"]),
            "recording_sites": _counts(table["site"]),
            "rejected_count": len(listed[Verdict.REJECT.value]),
            "flagged_count": len(listed[Verdict.FLAG.value]),
            "rejected": listed[Verdict.REJECT.value],
            "flagged": listed[Verdict.FLAG.value],
        }

    def _all(self, positions: Positions | None) -> np.ndarray:
        if positions is None:
            return np.arange(len(self))
        array = np.asarray(positions)
        if array.dtype == bool:
            raise TypeError("positions are numbers, not a mask: give np.flatnonzero(mask)")
        return array.astype(np.int64)

    def _rows(self, positions: Positions | None) -> pd.DataFrame:
        return self.table.iloc[self._all(positions)]


def chronological(table: pd.DataFrame) -> pd.DataFrame:
    """Sort records by recording date (unknown ones last), then by ecg_id."""
    return table.sort_index().sort_values("recording_date", kind="stable", na_position="last")


def _owners(listing: pd.DataFrame, table: pd.DataFrame) -> np.ndarray:
    """Give every listed record one position: its own, else its patient's first, else its site's first, else 0."""
    own = table.index.get_indexer(listing.index)
    by_patient = pd.Series(np.arange(len(table)), index=table["patient_id"]).groupby(level=0).first()
    by_site = pd.Series(np.arange(len(table)), index=table["site"]).groupby(level=0).first()
    fallback = listing["patient_id"].map(by_patient).fillna(listing["site"].map(by_site)).fillna(0).astype("int64")
    return np.where(own >= 0, own, fallback)


def _counts(column: pd.Series) -> dict[str, int]:
    counts = column.value_counts().sort_index()
    return {str(value): int(count) for value, count in counts.items()}
