from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES
from simulations.partitions import partition
from simulations.sample.make_sample import candidates, choose, counts, main, norm_then_abnormal

SAMPLE = Path(__file__).resolve().parents[2] / "simulations" / "sample"
ECG_FILES = ("LICENSE.txt", "ptbxl_database.csv", "scp_statements.csv", "records100")


@pytest.fixture(scope="module")
def database(sample_database: Database) -> Database:
    return sample_database


@pytest.fixture(scope="module")
def clients(database: Database) -> dict[str, np.ndarray]:
    return partition(database.table, "site", 4)


def test_at_most_600_records_and_15_mb(database: Database) -> None:
    files = [file for name in ECG_FILES for file in [SAMPLE / name, *(SAMPLE / name).rglob("*")] if file.is_file()]
    assert len(database.quality) <= 600
    assert sum(file.stat().st_size for file in files) <= 15e6
    # On a disk with blocks of 4 KiB, too.
    assert sum(-(-file.stat().st_size // 4096) * 4096 for file in files) <= 15.7e6


def test_every_file_belongs_to_a_row_and_every_row_has_its_files(database: Database) -> None:
    listed = {f"{file}{suffix}" for file in database.quality["file"] for suffix in (".hea", ".dat")}
    assert {str(file.relative_to(SAMPLE)) for file in (SAMPLE / "records100").rglob("*.*")} == listed


def test_the_table_has_all_columns_and_only_original_rows() -> None:
    table = pd.read_csv(SAMPLE / "ptbxl_database.csv")
    assert table.shape[1] == 28
    assert table["recording_date"].notna().all()  # reconstructed rows have none


def test_no_record_is_rejected(database: Database) -> None:
    assert (database.quality["verdict"] != "reject").all()


def test_sites_folds_and_classes_are_all_there(database: Database, clients: dict[str, np.ndarray]) -> None:
    assert {0, 1, 2, 3} < set(database.table["site"])
    assert (database.table["site"] > 3).any()
    assert set(database.table["strat_fold"]) == set(range(1, 11))
    assert list(clients) == ["site-0", "site-1", "site-2", "rest"]
    for positions in clients.values():
        assert 100 <= len(positions) <= 170
        test = database.labels[positions[np.isin(positions, database.in_folds(10))]]
        assert (test.sum(axis=0) >= 5).all()
        assert ((1 - test).sum(axis=0) >= 10).all()


def test_enough_healthy_and_enough_who_fell_ill(database: Database) -> None:
    assert 0.25 < database.labels[:, 0].mean() < 0.4
    table = database.table.assign(norm_only=database.norm_only())
    assert len(norm_then_abnormal(table)) >= 25
    assert len(database.healthy_references()) >= 100


def test_the_readme_tells_the_counts(database: Database) -> None:
    readme = (SAMPLE / "README.md").read_text(encoding="utf-8")
    assert counts(candidates(database)) in readme
    told = re.search(r"# The bundled sample: (\d+) real ECGs\n\n\d+ records of (\d+) patients", readme)
    assert told is not None
    assert told.groups() == (str(len(database)), str(database.table["patient_id"].nunique()))
    assert "CC BY" in readme or "Creative Commons Attribution 4.0" in readme
    assert "prevalence" in readme


def test_the_rule_has_no_random_part_and_keeps_patients_whole(database: Database) -> None:
    table = candidates(database)
    first, second = choose(table), choose(table.sample(frac=1.0, random_state=0))
    assert set(first.index) == set(second.index)
    kept = table["patient_id"].isin(first["patient_id"])
    assert set(table.index[kept]) == set(first.index)


def test_patients_with_a_rejected_or_a_reconstructed_record_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    shutil.copytree(SAMPLE, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__", "README.md"))
    table = pd.read_csv(folder / "ptbxl_database.csv", index_col="ecg_id")
    several = table["patient_id"].value_counts().loc[lambda n: n > 1].index
    broken, rebuilt = (table.index[table["patient_id"] == patient][0] for patient in several[:2])
    (folder / f"{table.at[broken, 'filename_lr']}.dat").unlink()
    (folder / "reconstructed_rows.csv").write_text(f"ecg_id\n{rebuilt}\n")
    left = candidates(Database.open(folder, cache_dir=tmp_path / "cache", progress=False))
    assert not left["patient_id"].isin(several[:2]).any()
    assert len(left) < len(table)


def test_the_command_writes_a_sample_and_prints_its_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(SAMPLE), "--out", str(tmp_path / "out")]) == 0
    assert "| all | all |" in capsys.readouterr().out
    made = pd.read_csv(tmp_path / "out" / "ptbxl_database.csv", dtype=str)
    ours = pd.read_csv(SAMPLE / "ptbxl_database.csv", dtype=str)
    pd.testing.assert_frame_equal(made, ours[ours["ecg_id"].isin(made["ecg_id"])].reset_index(drop=True))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(ECG_FILES)


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("no data folder at")
    assert main(["--data", str(SAMPLE), "--out", str(SAMPLE)]) == 2
    assert not (tmp_path / "out").exists()


def test_shares_are_of_the_official_classes() -> None:
    from simulations.sample.make_sample import SHARES

    assert tuple(SHARES) == SUPERCLASSES
