"""A private run of small networks, and one site of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lavq_core.data.database import Database
from lavq_core.settings import Config
from lavq_core.settings_check import NOT_PRIVATE
from lavq_core.training.site_data import SiteData
from tests.core.private_separator.making import CLIP, ROUNDS


@pytest.fixture(scope="session")
def config(make_tiny: Callable[[], Config]) -> Config:
    config = make_tiny()
    config.privacy.epsilon, config.privacy.delta = 2.0, 1e-3
    config.privacy.separator_clipping_norm = CLIP
    config.privacy.separator_rate = 1.0  # the accountants are quick where there is no sampling
    config.detector.kind = "features"
    config.detector_training.epochs = config.detector_training.steps = 2
    config.federation.rounds = ROUNDS
    config.separator_training.after = 0.34
    config.codebook.ema = 0.0
    config.audit.enabled = False
    for name in NOT_PRIVATE:
        setattr(config.separator_training.loss, name, 0.0)
    return config


@pytest.fixture(scope="session")
def site(sample_database: Database, config: Config) -> SiteData:
    return SiteData("site-0", sample_database, np.arange(0, 520, 14), config)
