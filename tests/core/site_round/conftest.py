"""A small part of the sample as one site."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lavq_core.data.database import Database
from lavq_core.settings import Config
from lavq_core.training.site_data import SiteData
from tests.core.site_round.rounds import POSITIONS


@pytest.fixture(scope="session")
def site(sample_database: Database, make_tiny: Callable[[], Config]) -> SiteData:
    """A hospital of 44 records; tests that change its configuration take another one."""
    return SiteData("site-0", sample_database, POSITIONS, make_tiny())
