from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import wfdb

from lavq_core.data import cache
from lavq_core.data.cache import default_cache_dir
from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.data.ptbxl import TABLE
from lavq_core.errors import DataError
from lavq_core.signals.leads import INDEPENDENT_LEADS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def database(sample_database: Database) -> Database:
    return sample_database


def open_quietly(folder: Path, tmp_path: Path, **options: object) -> Database:
    return Database.open(folder, cache_dir=tmp_path / "cache", progress=False, **options)  # type: ignore[arg-type]


def header(folder: Path, place: int) -> Path:
    """The header of a record by its place in the table."""
    return folder / f"{pd.read_csv(folder / TABLE)['filename_lr'].iloc[place]}.hea"


def packs(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_table_labels_and_signals_go_together(database: Database) -> None:
    assert len(database) == len(database.table) == len(database.labels) == len(database.packed) == 520
    assert database.labels.dtype == np.float32
    np.testing.assert_array_equal(database.table[list(SUPERCLASSES)].to_numpy(), database.labels)
    assert list(database.quality.index) == list(pd.read_csv(database.folder / TABLE)["ecg_id"])


def test_signals_are_what_wfdb_reads_to_the_last_bit(database: Database) -> None:
    positions = list(range(0, 520, 37))
    signals = database.signals(positions)
    assert signals.shape == (len(positions), 8, 1000)
    assert signals.dtype == torch.float32
    for position, signal in zip(positions, signals, strict=True):
        record = wfdb.rdrecord(str(database.folder / database.table["file"].iloc[position]))
        rows = [record.sig_name.index(lead) for lead in INDEPENDENT_LEADS]
        np.testing.assert_array_equal(signal.numpy(), record.p_signal.T[rows].astype(np.float32))


def test_signals_are_a_copy(database: Database) -> None:
    database.signals([0]).zero_()
    assert database.signals(np.array([0])).abs().sum() > 0


def test_a_mask_is_not_a_list_of_positions(database: Database) -> None:
    with pytest.raises(TypeError, match="mask"):
        database.signals(database.norm_only())


def test_records_are_found_by_identifier(database: Database) -> None:
    ids = database.table.index[[7, 3]].to_list()
    np.testing.assert_array_equal(database.positions_of(ids), [7, 3])
    with pytest.raises(DataError, match="record 999999 is not listed"):
        database.positions_of([999_999])


def test_folds_and_healthy_references(database: Database) -> None:
    assert set(database.table["strat_fold"].iloc[database.in_folds(9, 10)]) == {9, 10}
    healthy = database.healthy_references()
    rows = database.table.iloc[healthy]
    assert rows["patient_id"].is_unique
    assert (rows[list(SUPERCLASSES)].to_numpy() == [1, 0, 0, 0, 0]).all()
    everyone = database.table[database.norm_only()]
    for patient, date in rows.set_index("patient_id")["recording_date"].items():
        assert date == everyone.loc[everyone["patient_id"] == patient, "recording_date"].min()
    some = database.in_folds(10)
    assert set(database.healthy_references(some)) <= set(some)


def test_the_minimum_likelihood_is_a_setting(small: Path, tmp_path: Path) -> None:
    lax, strict = open_quietly(small, tmp_path), open_quietly(small, tmp_path, minimum_likelihood=100.0)
    assert strict.labels.sum() <= lax.labels.sum()
    assert strict.fingerprint == lax.fingerprint
    assert len(packs(tmp_path)) == 1


def test_the_fingerprint_is_the_contents(small: Path, tmp_path: Path) -> None:
    first = open_quietly(small, tmp_path)
    small.rename(tmp_path / "elsewhere")
    assert open_quietly(tmp_path / "elsewhere", tmp_path).fingerprint == first.fingerprint
    header(tmp_path / "elsewhere", 3).unlink()
    fewer = open_quietly(tmp_path / "elsewhere", tmp_path)
    assert fewer.fingerprint != first.fingerprint
    assert len(fewer) == 11


def test_a_pack_is_used_again(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_quietly(small, tmp_path)

    def fail(*_: object) -> None:
        raise AssertionError("packed again")

    monkeypatch.setattr(cache, "_build", fail)
    second = open_quietly(small, tmp_path)
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(second.packed, first.packed)


@pytest.mark.parametrize("name", ["index.json", "signals.i16"])
def test_a_damaged_pack_is_built_again(small: Path, tmp_path: Path, name: str) -> None:
    first = open_quietly(small, tmp_path)
    (tmp_path / "cache" / packs(tmp_path)[0] / name).write_bytes(b"{}")
    assert open_quietly(small, tmp_path).fingerprint == first.fingerprint


def test_what_a_killed_process_left_is_cleared(small: Path, tmp_path: Path) -> None:
    open_quietly(small, tmp_path)
    key = packs(tmp_path)[0]
    (tmp_path / "cache" / key / "index.json").unlink()
    (tmp_path / "cache" / f".{key}.abandoned").mkdir()
    open_quietly(small, tmp_path)
    assert packs(tmp_path) == [key]


def test_two_processes_pack_once_and_agree(small: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from lavq_core.data import cache; from lavq_core.data.database import Database\n"
        "build = cache._build\n"
        "def slow(*a):\n"
        "    import time; time.sleep(1.0); print('packed'); build(*a)\n"
        "cache._build = slow\n"
        f"d = Database.open({str(small)!r}, cache_dir={str(tmp_path / 'cache')!r}, progress=False)\n"
        "print(d.fingerprint, int(d.packed.astype('int64').sum()))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    workers = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    lines = [worker.communicate(timeout=120)[0].splitlines() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert sum("packed" in printed for printed in lines) == 1
    assert lines[0][-1] == lines[1][-1]


def damage_missing(folder: Path) -> None:
    header(folder, 2).with_suffix(".dat").unlink()


def damage_truncated(folder: Path) -> None:
    file = header(folder, 2).with_suffix(".dat")
    file.write_bytes(file.read_bytes()[:9000])


def damage_leads(folder: Path) -> None:
    path = header(folder, 2)
    path.write_text(path.read_text().replace(" V5\n", " X\n"))


def damage_rate(folder: Path) -> None:
    path = header(folder, 2)
    path.write_text(path.read_text().replace(" 12 100 1000", " 12 250 1000"))


def damage_length(folder: Path) -> None:
    path = header(folder, 2)
    record = wfdb.rdrecord(str(path.with_suffix("")), sampto=800)
    wfdb.wrsamp(
        path.stem,
        fs=100,
        units=record.units,
        sig_name=record.sig_name,
        p_signal=record.p_signal,
        fmt=["16"] * 12,
        write_dir=str(path.parent),
    )


def damage_units(folder: Path) -> None:
    path = header(folder, 2)
    path.write_text(path.read_text().replace("/mV", "/mmHg"))


def damage_flat(folder: Path) -> None:
    path = header(folder, 2)
    content = np.fromfile(path.with_suffix(".dat"), dtype="<i2").reshape(-1, 12)
    content[:, 7] = 0
    content.tofile(path.with_suffix(".dat"))
    lines = path.read_text().splitlines()
    lines[8] = " ".join(part if i != 6 else "0" for i, part in enumerate(lines[8].split(" ")))
    path.write_text("\n".join(lines) + "\n")


def damage_row(folder: Path) -> None:
    table = pd.read_csv(folder / TABLE, dtype=str, keep_default_na=False)
    table.loc[2, "scp_codes"] = "broken"
    table.to_csv(folder / TABLE, index=False)


DAMAGES = [
    (damage_missing, "no signal file"),
    (damage_truncated, "truncated or corrupt"),
    (damage_leads, "lacks lead V5"),
    (damage_rate, "sampled at 250 Hz, expected 100 Hz"),
    (damage_length, "expected 10 s"),
    (damage_units, "in 'mmHg'"),
    (damage_flat, "flat lead V2"),
    (damage_row, "scp_codes is not a dict"),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGES, ids=[reason for _, reason in DAMAGES])
def test_one_bad_record_is_skipped_named_and_counted(
    small: Path, tmp_path: Path, damage, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    ecg_id = int(pd.read_csv(small / TABLE)["ecg_id"].iloc[2])
    damage(small)
    with caplog.at_level(logging.WARNING):
        opened = open_quietly(small, tmp_path)
    assert "1 of 12 records rejected" in caplog.text
    assert len(opened) == 11
    assert ecg_id not in opened.table.index
    assert opened.quality.at[ecg_id, "verdict"] == "reject"
    opened.write_data_report(tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["records"], report["rejected_count"]) == (11, 1)
    assert report["rejected"][0]["ecg_id"] == ecg_id
    assert reason in report["rejected"][0]["reasons"]
    with pytest.raises(DataError, match="was rejected"):
        opened.positions_of([ecg_id])


def test_a_database_of_bad_records_is_one_clear_error(small: Path, tmp_path: Path) -> None:
    for file in small.rglob("*.dat"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 12 records .* can be used; the first, records100/") as caught:
        open_quietly(small, tmp_path)
    assert "\n" not in str(caught.value)
    assert packs(tmp_path) == []


def test_500_hz_uses_the_records_that_exist(small: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of the 12 records"):
        open_quietly(small, tmp_path, sampling_rate=500)
    name = pd.read_csv(small / TABLE)["filename_hr"].iloc[5]
    slow = wfdb.rdrecord(str(header(small, 5).with_suffix("")))
    target = small / name
    target.parent.mkdir(parents=True)
    fast = np.repeat(slow.p_signal, 5, axis=0)
    wfdb.wrsamp(
        target.name,
        fs=500,
        units=slow.units,
        sig_name=slow.sig_name,
        p_signal=fast,
        fmt=["16"] * 12,
        write_dir=str(target.parent),
    )
    opened = open_quietly(small, tmp_path, sampling_rate=500)
    assert len(opened) == 1
    assert opened.signals([0]).shape == (1, 8, 5000)
    assert opened.data_report()["rejected_count"] == 11


def test_a_database_without_sites_works(small: Path, tmp_path: Path) -> None:
    table = pd.read_csv(small / TABLE)
    table["site"] = np.nan
    table.to_csv(small / TABLE, index=False)
    opened = open_quietly(small, tmp_path)
    assert set(opened.table["site"]) == {-1}
    assert opened.data_report()["recording_sites"] == {"-1": 12}


def test_data_reports_of_the_parts_add_up(small: Path, tmp_path: Path) -> None:
    damage_missing(small)
    damage_other = header(small, 9)
    damage_other.unlink()
    opened = open_quietly(small, tmp_path)
    parts = [opened.data_report(positions) for positions in ([0, 1, 2], [3, 4, 5, 6, 7], [8, 9])]
    whole = opened.data_report()
    for key in ("records", "rejected_count", "flagged_count"):
        assert sum(part[key] for part in parts) == whole[key]  # type: ignore[misc]
    assert whole["rejected_count"] == 2


def test_a_rejected_record_belongs_to_its_patient(database: Database) -> None:
    own = database.quality["owner"].loc[database.table.index]
    np.testing.assert_array_equal(own, np.arange(len(database)))


def test_a_cache_that_cannot_be_written_is_named(small: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write the signal cache .* choose another with data\.cache_dir"):
        Database.open(small, cache_dir=tmp_path / "file", progress=False)


def test_the_default_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "lavq"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == Path.home() / ".cache" / "lavq"
