from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lavq_core.data.ptbxl import COLUMNS, STATEMENTS, TABLE, UNKNOWN_SITE, read_tables
from lavq_core.errors import DataError


def edit(folder: Path, **cells: object) -> int:
    """Set columns of the table's third row; returns its ecg_id as it was."""
    table = pd.read_csv(folder / TABLE, dtype=str, keep_default_na=False)
    ecg_id = int(table.loc[2, "ecg_id"])
    for column, value in cells.items():
        table.loc[2, column] = str(value)
    table.to_csv(folder / TABLE, index=False)
    return ecg_id


def test_columns_have_the_types_that_they_mean(sample: Path) -> None:
    listing = read_tables(sample).listing
    assert listing.index.name == "ecg_id"
    for column in ("patient_id", "site", "strat_fold", "sex"):
        assert listing[column].dtype == np.int64
    assert pd.api.types.is_datetime64_any_dtype(listing["recording_date"])
    assert set(listing["strat_fold"]) == set(range(1, 11))
    first = listing.iloc[0]
    assert isinstance(first["scp_codes"], dict)
    assert first["statements"] == tuple(first["scp_codes"])
    assert read_tables(sample).faults == {}


def test_the_file_column_follows_the_rate(sample: Path) -> None:
    assert read_tables(sample, 100).listing["file"].iloc[0].startswith("records100/")
    assert read_tables(sample, 500).listing["file"].iloc[0].startswith("records500/")


def test_age_300_is_over_89(small: Path) -> None:
    ecg_id = edit(small, age="300.0")
    assert read_tables(small).listing.at[ecg_id, "age"] == 90.0


def test_what_is_not_known_has_a_value_of_its_own(small: Path) -> None:
    ecg_id = edit(small, age="", site="", recording_date="", device="", report="", sex="")
    row = read_tables(small).listing.loc[ecg_id]
    assert np.isnan(row["age"])
    assert row["site"] == UNKNOWN_SITE
    assert row["sex"] == -1
    assert pd.isna(row["recording_date"])
    assert (row["device"], row["report"]) == ("", "")
    assert read_tables(small).faults == {}


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"patient_id": ""}, "patient_id is missing"),
        ({"patient_id": "12.5"}, "patient_id is '12.5'"),
        ({"patient_id": "inf"}, "patient_id is 'inf'"),
        ({"strat_fold": "11"}, "strat_fold is '11'"),
        ({"strat_fold": "many"}, "strat_fold is 'many'"),
        ({"scp_codes": "{'NORM': "}, "scp_codes is not a dict"),
        ({"filename_lr": ""}, "filename_lr names no file"),
        ({"filename_lr": "../elsewhere"}, "filename_lr names no file"),
        ({"filename_lr": "/etc/passwd"}, "filename_lr names no file"),
    ],
)
def test_a_bad_row_is_named_and_stops_no_other(small: Path, cells: dict[str, str], reason: str) -> None:
    ecg_id = edit(small, **cells)
    tables = read_tables(small)
    assert set(tables.faults) == {ecg_id}
    assert reason in tables.faults[ecg_id]
    assert len(tables.listing) == 12


def test_the_digest_changes_with_a_table_only(small: Path) -> None:
    before = read_tables(small).digest
    assert read_tables(small).digest == before
    edit(small, age="41")
    assert read_tables(small).digest != before


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data folder at .*nowhere"):
        read_tables(tmp_path / "nowhere")


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        read_tables(tmp_path)


@pytest.mark.parametrize("name", [TABLE, STATEMENTS])
def test_a_missing_table_is_named(small: Path, name: str) -> None:
    (small / name).unlink()
    with pytest.raises(DataError, match=f"no {name} in"):
        read_tables(small)


@pytest.mark.parametrize("column", ["ecg_id", *COLUMNS, "filename_lr"])
def test_a_missing_column_is_named(small: Path, column: str) -> None:
    pd.read_csv(small / TABLE).drop(columns=column).to_csv(small / TABLE, index=False)
    with pytest.raises(DataError, match=f"lacks the column {column}"):
        read_tables(small)


def test_a_missing_statement_column_is_named(small: Path) -> None:
    pd.read_csv(small / STATEMENTS).drop(columns="diagnostic_class").to_csv(small / STATEMENTS, index=False)
    with pytest.raises(DataError, match="lacks the column diagnostic_class"):
        read_tables(small)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x80binary", b'a,b\n1,2,3\n"4', bytes(range(256))])
def test_a_table_that_is_none_is_named(small: Path, content: bytes) -> None:
    (small / TABLE).write_bytes(content)
    with pytest.raises(DataError, match=TABLE) as caught:
        read_tables(small)
    assert "\n" not in str(caught.value)


def test_a_table_without_rows_is_named(small: Path) -> None:
    (small / TABLE).write_text((small / TABLE).read_text().splitlines()[0] + "\n")
    with pytest.raises(DataError, match="lists no record"):
        read_tables(small)


@pytest.mark.parametrize("value", ["", "x", "1.5"])
def test_identifiers_must_be_whole_numbers(small: Path, value: str) -> None:
    edit(small, ecg_id=value)
    with pytest.raises(DataError, match="line 4: ecg_id"):
        read_tables(small)


def test_identifiers_must_be_unique(small: Path) -> None:
    first = pd.read_csv(small / TABLE)["ecg_id"].iloc[0]
    edit(small, ecg_id=first)
    with pytest.raises(DataError, match="line 4: ecg_id"):
        read_tables(small)


def test_other_rates_are_refused(sample: Path) -> None:
    with pytest.raises(DataError, match="choose 100 or 500"):
        read_tables(sample, 250)
