"""Predictions files: what is taken, and the one line with which anything else is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.data.predictions import judge_predictions, read_predictions
from lavq_core.errors import DataError

GOOD = pd.DataFrame({"ecg_id": [3, 1, 2], **{name: [0.1, 0.9, 0.5] for name in SUPERCLASSES}})


def write(folder: Path, table: pd.DataFrame) -> Path:
    table.to_csv(folder / "p.csv", index=False)
    return folder / "p.csv"


def refusal(folder: Path, table: pd.DataFrame) -> str:
    with pytest.raises(DataError) as caught:
        read_predictions(write(folder, table))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_rows_keep_their_order_and_columns_take_theirs(tmp_path: Path) -> None:
    mixed = GOOD[["HYP", "NORM", "ecg_id", "CD", "STTC", "MI"]].assign(remark="x")
    table = read_predictions(write(tmp_path, mixed))
    assert list(table.index) == [3, 1, 2]
    assert list(table.columns) == list(SUPERCLASSES)


@pytest.mark.parametrize("column", ["ecg_id", "STTC"])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    assert f"lacks the column {column}" in refusal(tmp_path, GOOD.drop(columns=column))


@pytest.mark.parametrize("value", [1.2, -0.1, np.nan, np.inf, "high"])
def test_what_is_no_probability_is_named_with_its_record(tmp_path: Path, value: object) -> None:
    table = GOOD.astype({"CD": object})
    table.loc[1, "CD"] = value
    message = refusal(tmp_path, table)
    assert "CD of record 1" in message
    assert "no probability" in message


def test_a_repeated_record_is_named(tmp_path: Path) -> None:
    assert "record 1 more than once" in refusal(tmp_path, GOOD.assign(ecg_id=[1, 1, 2]))


@pytest.mark.parametrize("value", ["", "abc", 1.5])
def test_an_id_that_is_none_is_named_by_line(tmp_path: Path, value: object) -> None:
    assert "line 3" in refusal(tmp_path, GOOD.astype({"ecg_id": object}).assign(ecg_id=[3, value, 2]))


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no predictions at"):
        read_predictions(tmp_path / "absent.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match="cannot be read"):
        read_predictions(tmp_path / "empty.csv")


def test_the_truth_is_the_databases(sample: Path, sample_database: Database) -> None:
    chosen = sample_database.table.index[[5, 400, 17]]
    predictions = pd.DataFrame(0.5, index=chosen, columns=list(SUPERCLASSES))
    judged = judge_predictions(predictions, sample)
    assert np.array_equal(judged.labels, sample_database.labels[sample_database.positions_of(list(chosen))])
    assert list(judged.table["patient_id"]) == list(sample_database.table.loc[chosen, "patient_id"])
    fold = int(judged.table["strat_fold"].iloc[0])
    assert judged.missing(fold) == int((sample_database.table["strat_fold"] == fold).sum()) - len(judged.in_fold(fold))


def test_a_record_that_the_database_does_not_list_is_named(sample: Path) -> None:
    predictions = pd.DataFrame(0.5, index=pd.Index([59, 999999]), columns=list(SUPERCLASSES))
    with pytest.raises(DataError, match=r"1 of 2 scored records are not listed.*999999"):
        judge_predictions(predictions, sample)
