from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lavq_core.runs.layout import RunFolder, SiteFolder
from tests.client.private_site.asked import PRIVATE, Make


@pytest.fixture
def folder(tmp_path: Path) -> SiteFolder:
    """The folder of the one hospital."""
    return RunFolder(tmp_path / "run").site("client-0")


@pytest.fixture
def site(hospital: Make) -> Any:
    """A hospital whose training is private."""
    return hospital(0, *PRIVATE)
