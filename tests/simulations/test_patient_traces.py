"""The search for patients in captured traffic finds what is there, so that finding nothing says something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lavq_core.data.database import Database
from simulations.shares import write_shares
from tests.simulations.patient_traces import named, stretches


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory, sample_database: Database) -> Path:
    folder = tmp_path_factory.mktemp("wards") / "shares"
    return write_shares(sample_database, folder, "site", 3)[0]


def noise(length: int) -> bytes:
    return np.random.default_rng(0).bytes(length)


@pytest.mark.parametrize("kind", ["float32", "float64", "int16", "raw", "raw lead"])
def test_a_tenth_of_a_second_of_an_ecg_is_found_wherever_it_stands(ward: Path, packs: Path, kind: str) -> None:
    database = Database.open(ward, cache_dir=packs, progress=False)
    signal = database.signals([7])[0, 3].numpy()
    raw = np.fromfile(next((ward / "records100").rglob("*.dat")), "<i2").reshape(-1, 12)
    planted = {
        "float32": signal[101:111],
        "float64": signal[101:111].astype(np.float64),
        "int16": np.asarray(database.packed[7, 3, 101:117]),
        "raw": raw[55:57],
        "raw lead": raw[55:75, 2],
    }[kind].tobytes()
    assert stretches(noise(5001) + planted + noise(777), ward, packs) > 0


def test_nothing_is_found_in_noise_zeros_and_http(ward: Path, packs: Path) -> None:
    head = b"POST / HTTP/1.1\r\nHost: 127.0.0.1:18792\r\nContent-Length: 18792\r\n\r\n2026-11-21T11:53:53.187920"
    data = noise(300_000) + bytes(1000) + head
    assert stretches(data, ward, packs) == 0
    assert named(data, ward) == set()


@pytest.mark.parametrize("column", ["patient_id", "report", "recording_date", "filename_lr"])
def test_what_a_table_says_of_a_patient_is_found(ward: Path, column: str) -> None:
    import pandas as pd

    table = pd.read_csv(ward / "ptbxl_database.csv")
    row = table[(table["patient_id"] >= 10_000) & (table["report"].str.len() > 20)].iloc[3]
    assert named(noise(1000) + f'{{"x": {row[column]}}}'.encode() + noise(1000), ward)
    assert named(noise(1000) + str(ward).encode(), ward)
