"""A share that was written as a folder is the share that the simulation deals out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lavq_core.data.database import Database
from lavq_core.errors import DataError
from simulations.partitions import partition
from simulations.shares import write_shares

SAMPLE = Path(__file__).resolve().parents[2] / "simulations" / "sample"


def test_hospitals_get_the_records_of_the_simulation_in_its_order(tmp_path: Path) -> None:
    database = Database.open(SAMPLE, cache_dir=tmp_path / "cache", progress=False)
    folders = write_shares(database, tmp_path / "shares", "site", 3)
    dealt = partition(database.table, "site", 3)
    assert [folder.name for folder in folders] == list(dealt)
    for folder in folders:
        own, positions = Database.open(folder, cache_dir=tmp_path / "own", progress=False), dealt[folder.name]
        np.testing.assert_array_equal(own.table.index, database.table.index[positions])
        np.testing.assert_array_equal(own.signals(np.arange(len(own))), database.signals(positions))
        np.testing.assert_array_equal(own.labels, database.labels[positions])
    with pytest.raises(DataError, match="is there already"):
        write_shares(database, tmp_path / "shares", "site", 3)
