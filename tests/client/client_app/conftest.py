"""The database of the simulated hospitals, and the folder of the first."""

from __future__ import annotations

from pathlib import Path

import pytest

from lavq_core.data.database import Database
from lavq_core.runs.layout import RunFolder, SiteFolder


@pytest.fixture(scope="session")
def database(sample_database: Database) -> Database:
    return sample_database


@pytest.fixture
def folder(tmp_path: Path) -> SiteFolder:
    """The folder of simulated hospital 0."""
    return RunFolder(tmp_path / "run").site("client-0")
