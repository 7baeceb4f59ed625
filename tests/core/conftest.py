from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lavq_core.settings import Config

SAMPLE = Path(__file__).resolve().parents[2] / "simulations" / "sample"


@pytest.fixture(scope="session")
def make_tiny() -> Callable[[], Config]:
    """Make configurations with networks of a few thousand weights and rounds of a few steps."""

    def make() -> Config:
        config = Config()
        config.run.device = "cpu"
        config.detector.width = 8
        config.detector.blocks = 2
        config.detector_training.epochs = 1
        config.detector_training.batch = 8
        config.separator.width = 16
        config.separator.blocks = 1
        config.separator.heads = 2
        config.separator_training.after = 0.0
        config.separator_training.steps = 2
        config.separator_training.batch = 4
        config.codebook.size = 6
        config.codebook.dim = 8
        config.text.width = 12
        return config

    return make


@pytest.fixture
def tiny(make_tiny: Callable[[], Config]) -> Config:
    """One such configuration, for a test to change."""
    return make_tiny()


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
