"""A federation of one, without a server: the same rounds as in any run, on the records of one ``SiteData``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lavq_core.models.codebook import merge_statistics
from lavq_core.settings import Config
from lavq_core.training.site_data import SiteData
from lavq_core.training.site_round import SharedState, train_round


def train_alone(
    site: SiteData, private_model: Path, config: Config, done: Callable[[int], None] = lambda _: None
) -> SharedState:
    """Go through all rounds; what the last one leaves.

    Args:
        site: whose training folds are trained on.
        private_model: folder in which the site keeps its networks.
        config: the run's.
        done: is told the number of every round that has ended.
    """
    from server.app import initial_model

    model, rounds = initial_model(config), config.federation.rounds
    shared = SharedState(model.detector, model.codebook, model.networks)
    for number in range(1, rounds + 1):
        update = train_round(site, private_model, shared, number, rounds)
        codebook = merge_statistics(shared.codebook, [update.statistics], config.codebook.decay)
        shared = SharedState(update.detector, codebook, update.networks)
        done(number)
    return shared
