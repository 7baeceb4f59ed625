"""The population evaluation of a centralised detector: results file ``population``.

One site holds the whole database, no separator and no twins take part, and a round is the same code as in a federation.
The arm ``permuted`` is a control: the labels of the training records are dealt out among them at random, so whatever it
scores above chance on real labels is a leak.

Folds 1-8 train, fold 9 gives temperatures and thresholds, fold 10 is scored once by each seed's final detector.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.metrics.population import Scored, evaluate
from lavq_core.models.calibration import Calibration
from lavq_core.runs.layout import RunFolder
from lavq_core.settings import Config, DataConfig
from lavq_core.training.site_data import SiteData
from simulations.experiments.federation import NO_TWINS
from simulations.experiments.generators import ONE_SITE
from simulations.experiments.jobs import Job, keep_predictions
from simulations.experiments.pool import each_seed
from simulations.experiments.results_file import Row
from simulations.experiments.seeds import over_seeds

ARMS = ("centralised", "permuted")
ALONE = (*ONE_SITE, *NO_TWINS)
"""Settings of a training by one site without twins."""
_DECIMALS = 4
_KEPT = ["ecg_id", "fold", *SUPERCLASSES, "arm", "seed"]


def run_population(overrides: Sequence[str], seeds: int, work: Path, workers: int) -> list[Row]:
    """Train both arms with every seed; finished trainings in ``work`` are not repeated.

    Returns:
        Rows of ``score``. Predictions on the validation and test folds are kept beside the results files (ecg_id, fold,
        probabilities, arm, seed); they are rounded before they are scored, so that they give the same figures to the
        last digit. ``lavq evaluate`` re-scores one arm and seed of them.
    """
    jobs = [Job(arm, seed, tuple(overrides), work / arm / f"seed-{seed}") for seed in range(seeds) for arm in ARMS]
    parts = each_seed(_train, [(job,) for job in jobs], workers, "trainings done")
    predictions = pd.concat(parts, ignore_index=True).round(_DECIMALS)
    keep_predictions(predictions, "population")
    config = compose(overrides)
    return score(predictions, Database.configured(config.data), config)


def _train(job: Job) -> pd.DataFrame:
    return train_centralised(job)[_KEPT]


def train_centralised(job: Job) -> pd.DataFrame:
    """Train one arm in a process of its own; a finished training in ``job.folder`` is not repeated.

    Returns:
        What it says of the held-out folds, as ``alone.predictions_at`` gives it, with columns arm and seed.
    """
    from simulations.experiments.alone import train_alone

    torch.set_num_threads(1)
    folder = RunFolder(job.folder).site("everybody")
    if not folder.predictions.is_file():
        config = compose([*job.overrides, *ALONE, f"run.seed={job.seed}"])
        database = Database.configured(config.data, progress=False)
        if job.arm == "permuted":
            database = with_permuted_labels(database, config.data, job.seed)
        train_alone(SiteData("everybody", database, np.arange(len(database)), config), folder)
    return pd.read_csv(folder.predictions).assign(arm=job.arm, seed=job.seed)


def with_permuted_labels(database: Database, data: DataConfig, seed: int) -> Database:
    """Deal the labels of the training records out among them; those of the other folds stay true."""
    labels, rows = database.labels.copy(), database.in_folds(*data.train_folds)
    labels[rows] = labels[np.random.default_rng(seed).permutation(rows)]
    return dataclasses.replace(database, labels=labels)


def score(predictions: pd.DataFrame, database: Database, config: Config) -> list[Row]:
    """Measure every arm: means over seeds of the figures of ``lavq_core.metrics.population``."""
    rows = []
    for (arm, seed), table in predictions.groupby(["arm", "seed"], sort=False):
        parts = {fold: _scored(table[table["fold"] == fold], database) for fold in sorted(table["fold"].unique())}
        validation, test = parts[config.data.validation_fold], parts[config.data.test_fold]
        calibration = Calibration.fit(
            validation.labels,
            validation.probabilities,
            config.calibration.sensitivity,
            config.data.validation_fold,
            f"{arm}, seed {seed}",
        )
        found = evaluate(test, calibration)
        rows += [Row(str(arm), metric, f.value, f.low, f.high, f.n, 1) for metric, f in found.items()]
    return over_seeds(rows)


def _scored(table: pd.DataFrame, database: Database) -> Scored:
    positions = database.positions_of(list(table["ecg_id"]))
    return Scored.of(
        database.labels[positions], table[list(SUPERCLASSES)].to_numpy(dtype=float), database.table.iloc[positions]
    )
