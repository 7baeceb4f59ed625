"""``lavq site report --noise``: the record that was spoilt is named, with its lead, and all others are listed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from client.noise_card import noise_section, noise_table, write_noise_table
from lavq_core.cli.main import main
from lavq_core.data.database import Database
from lavq_core.errors import ConfigError


@pytest.fixture(scope="module")
def spoilt(sample_database: Database) -> Database:
    """The sample's first 60 records; the sixth has static in V3, the eighth drifts in V1."""
    packed = np.array(sample_database.packed[:60])
    rng, time = np.random.default_rng(0), np.arange(1000) / 100
    packed[5, 4] += (400 * rng.normal(size=1000)).astype(np.int16)
    packed[7, 2] += (2000 * np.sin(2 * np.pi * 0.2 * time)).astype(np.int16)
    table, labels = sample_database.table.iloc[:60], sample_database.labels[:60]
    return dataclasses.replace(sample_database, packed=packed, table=table, labels=labels)


@pytest.fixture(scope="module")
def table(spoilt: Database) -> pd.DataFrame:
    return noise_table(spoilt, steps=400)


def test_the_noisiest_record_comes_first_with_its_lead(spoilt: Database, table: pd.DataFrame) -> None:
    assert table.index[0] == spoilt.table.index[5]
    assert table["noise_lead"].iloc[0] == "V3"
    assert table["noise"].is_monotonic_decreasing
    assert sorted(table.index) == sorted(spoilt.table.index)


def test_drift_is_measured_in_millivolts(spoilt: Database, table: pd.DataFrame) -> None:
    worst = table["drift_mv"].idxmax()
    assert worst == spoilt.table.index[7]
    assert table.loc[worst, "drift_lead"] == "V1"
    assert table.loc[worst, "drift_mv"] == pytest.approx(2.0 / np.sqrt(2), rel=0.1)


def test_the_card_names_the_noisiest_and_the_file_all(table: pd.DataFrame, tmp_path: Path) -> None:
    section = noise_section(table)
    assert len(section.rows) == 25
    assert {len(row) for row in section.rows} == {len(section.head)}
    assert section.rows[0][0] == str(table.index[0])
    write_noise_table(tmp_path / "noise.csv", table)
    again = pd.read_csv(tmp_path / "noise.csv", index_col="ecg_id")
    assert list(again.index) == list(table.index)
    assert np.allclose(again["noise"], table["noise"], atol=1e-3)
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match="choose another place"):
        write_noise_table(tmp_path / "taken" / "noise.csv", table)


@pytest.mark.slow
def test_the_command_writes_both(
    sample: Path, packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(packs))
    monkeypatch.setattr("client.noise_card.noise_table", lambda database: noise_table(database, steps=20))
    card, csv = tmp_path / "card.html", tmp_path / "noise.csv"
    assert main(["site", "report", str(sample), "--out", str(card), "--noise", str(csv)]) == 0
    assert "Noisiest records" in card.read_text(encoding="utf-8")
    assert len(pd.read_csv(csv)) == 520
    assert "keep it at the site" in capsys.readouterr().err
