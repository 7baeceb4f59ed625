"""What all tests share: every database is packed once a session, however many processes run the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from lavq_core.data.database import Database

SAMPLE = Path(__file__).resolve().parents[1] / "simulations" / "sample"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, whole runs before the rest: begun last, a long one leaves the others idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, "simulations" not in item.path.parts))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Networks this small are slower on several threads, and much slower on busy cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The session's cache folder, the same for all processes of pytest-xdist; a test that damages packs has its own."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "packs"


@pytest.fixture(scope="session")
def sample() -> Path:
    """The bundled sample; tests only read it."""
    return SAMPLE


@pytest.fixture(scope="session")
def sample_database(packs: Path) -> Database:
    """The bundled sample, opened; tests only read it."""
    return Database.open(SAMPLE, cache_dir=packs, progress=False)


@pytest.fixture(scope="session")
def full_database(packs: Path) -> Database:
    """PTB-XL, or the part of it that there is, opened; for tests that skip where LAVQ_PTBXL is not set."""
    return Database.open(os.environ["LAVQ_PTBXL"], cache_dir=packs)
