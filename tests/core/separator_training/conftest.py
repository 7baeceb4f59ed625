"""A few guided beats, networks with half-open gates, and one forward pass with its losses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from lavq_core.data.database import Database
from lavq_core.models.networks import Networks, make_networks
from lavq_core.settings import Config
from lavq_core.training.guided import GuidedBeats
from lavq_core.training.separator_losses import losses_of
from lavq_core.training.site_data import SiteData
from tests.core.separator_training.passes import NOBODY, Seen, batch_of, codes_of, judge_of, pass_of, rng


@pytest.fixture(scope="session")
def records(sample_database: Database, make_tiny: Callable[[], Config]) -> GuidedBeats:
    site = SiteData("site-0", sample_database, np.arange(0, 520, 20), make_tiny())
    return site.guided(site.positions)


@pytest.fixture
def networks(tiny: Config, records: GuidedBeats) -> Networks:
    """Networks whose gates are half open and whose edits are of tenths of a millivolt."""
    made = make_networks(tiny, 0)
    with torch.no_grad():
        made.separator.gate.weight.mul_(30.0)
        given = (records.x, records.covariates, records.valid, records.memory, records.mask)
        made.separator.gate.bias -= made.separator(*given).probability.clamp(1e-4, 1 - 1e-4).logit().median()
        made.editor.paint.weight.mul_(3.0)
        made.editor.null.normal_(generator=rng(1))
    return made


@pytest.fixture
def together(tiny: Config, networks: Networks, records: GuidedBeats) -> Seen:
    codes = codes_of(tiny)
    seen = pass_of(networks, codes, *batch_of(records))
    return seen, losses_of(seen, networks, codes, judge_of(tiny), NOBODY, tiny)
