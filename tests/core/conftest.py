from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

SAMPLE = Path(__file__).resolve().parents[2] / "simulations" / "sample"


@pytest.fixture(scope="session")
def sample() -> Path:
    """The bundled sample; tests only read it."""
    return SAMPLE


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A copy of the sample's first 12 records, for a test to damage."""
    folder = tmp_path / "hospital"
    folder.mkdir()
    with (SAMPLE / "ptbxl_database.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file))[:13]
    with (folder / "ptbxl_database.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    shutil.copy(SAMPLE / "scp_statements.csv", folder)
    for row in rows:
        for suffix in (".hea", ".dat"):
            target = folder / (row[header.index("filename_lr")] + suffix)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(SAMPLE / target.relative_to(folder), target)
    return folder
