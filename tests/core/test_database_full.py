"""On a full download of PTB-XL, or the part of it that there is: set LAVQ_PTBXL to its folder."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
import wfdb

from lavq_core.data.database import Database
from lavq_core.data.format16 import read_format16
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.signals.leads import INDEPENDENT_LEADS, einthoven_residual
from lavq_core.signals.quality import RESIDUAL
from lavq_core.signals.rpeaks import find_r_peaks_batch

FOLDER = os.environ.get("LAVQ_PTBXL", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="LAVQ_PTBXL IS NOT SET: nothing was tested on the full PTB-XL"),
]


@pytest.fixture(scope="module")
def database(full_database: Database) -> Database:
    return full_database


def test_few_records_are_rejected_and_all_with_a_reason(database: Database) -> None:
    verdicts = database.quality["verdict"].value_counts(normalize=True)
    assert verdicts["reject"] < 0.005
    assert verdicts["flag"] < 0.03
    assert (database.quality["reasons"].ne("") == database.quality["verdict"].ne("accept")).all()


def test_every_superclass_and_fold_is_there(database: Database) -> None:
    assert set(database.table["strat_fold"]) == set(range(1, 11))
    assert (database.labels.sum(axis=0) > 1000).all()
    assert list(database.table[list(SUPERCLASSES)].columns) == list(SUPERCLASSES)


def test_the_pack_equals_wfdb(database: Database) -> None:
    positions = np.random.default_rng(0).choice(len(database), 100, replace=False)
    for position, signal in zip(positions, database.signals(positions), strict=True):
        record = wfdb.rdrecord(str(database.folder / database.table["file"].iloc[position]))
        rows = [record.sig_name.index(lead) for lead in INDEPENDENT_LEADS]
        np.testing.assert_array_equal(signal.numpy(), record.p_signal.T[rows].astype(np.float32))


def test_every_header_is_the_plain_case_with_a_true_checksum(database: Database) -> None:
    for ecg_id, file in database.table["file"].iloc[::10].items():
        stored = read_format16(database.folder / f"{file}.hea")
        assert stored is not None
        assert stored.intact()
        lawful = einthoven_residual(stored.physical) <= RESIDUAL
        assert lawful == ("Einthoven" not in database.quality.at[ecg_id, "reasons"])


def test_heart_rates_agree_with_the_rhythm_statements(database: Database) -> None:
    def rates(code: str) -> np.ndarray:
        chosen = np.flatnonzero([code in codes for codes in database.table["statements"]])[:200]
        peaks = find_r_peaks_batch(database.signals(chosen).numpy(), 100)
        return np.asarray([6000 / np.median(np.diff(found)) for found in peaks])

    assert np.quantile(rates("SBRAD"), 0.95) < 62
    assert np.quantile(rates("STACH"), 0.05) > 95
    assert pd.Series(rates("SR")).between(45, 120).mean() > 0.97
