"""One site by itself: the rounds of a federation in which nobody else takes part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from client.evaluation import write_predictions
from client.site import Site
from lavq_core.models.codebook import merge_statistics
from lavq_core.models.detector import Detector
from lavq_core.models.stored import shared_detector
from lavq_core.runs.layout import SiteFolder
from lavq_core.training.site_data import SiteData
from lavq_core.training.site_round import SharedState, train_round
from server.app import initial_model


def rounds_alone(data: SiteData, private_model: Path, done: Callable[[int], None] = lambda _: None) -> SharedState:
    """Go through all rounds with the code of any federation; what the last one leaves.

    Args:
        data: whose training records are trained on.
        private_model: folder in which the site keeps its networks.
        done: is told the number of every round that has ended.
    """
    config = data.config
    model, rounds = initial_model(config), config.federation.rounds
    shared = SharedState(model.detector, model.codebook, model.networks, model.moments)
    for number in range(1, rounds + 1):
        update = train_round(data, private_model, shared, number, rounds)
        codebook = merge_statistics(shared.codebook, [update.statistics], config.codebook.decay)
        shared = SharedState(update.detector, codebook, update.networks, update.moments)
        done(number)
    return shared


def train_alone(data: SiteData, folder: SiteFolder) -> pd.DataFrame:
    """Train, and predict the site's held-out folds with the final detector, as ``predictions_at`` gives them."""
    detector = rounds_alone(data, folder.private_model).detector
    return predictions_at(data, folder, shared_detector(data.config, detector))


def predictions_at(data: SiteData, folder: SiteFolder, detector: Detector) -> pd.DataFrame:
    """Let a site score its held-out folds; the table is in its folder as well."""
    write_predictions(Site(data, folder), detector)
    return pd.read_csv(folder.predictions)
