"""The population evaluation of a centralised detector: results file ``population``.

One site holds the whole database, no separator and no twins take part, and a round is the same code as in a federation.
The arm ``permuted`` is a control: the labels of the training records are dealt out among them at random, so whatever it
scores above chance on real labels is a leak.

Folds 1-8 train, fold 9 gives temperatures and thresholds, fold 10 is scored once by each seed's final detector.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.metrics.population import Scored, evaluate
from lavq_core.models.calibration import Calibration
from lavq_core.models.stored import shared_detector
from lavq_core.runs.layout import RunFolder
from lavq_core.settings import Config, DataConfig
from lavq_core.training.site_data import SiteData
from simulations.experiments.generators import ONE_SITE
from simulations.experiments.one_site import train_alone
from simulations.experiments.pool import each_seed
from simulations.experiments.results_file import FOLDER, Row
from simulations.experiments.seeds import over_seeds

ARMS = ("centralised", "permuted")
_ALONE = (*ONE_SITE, "separator_training.steps=0", "twins.per_record=0")
_DECIMALS = 4
_KEPT = ["ecg_id", "fold", *SUPERCLASSES, "arm", "seed"]


@dataclass(frozen=True)
class Job:
    """One training of one arm."""

    arm: str
    seed: int
    overrides: tuple[str, ...]
    folder: Path


def run_population(overrides: Sequence[str], seeds: int, work: Path, workers: int) -> pd.DataFrame:
    """Train both arms with every seed; finished trainings in ``work`` are not repeated.

    Returns:
        Predictions on the validation and test folds: ecg_id, fold, probabilities, arm, seed. They are rounded as they
        will be kept, so that what is kept gives the same figures to the last digit.
    """
    jobs = [Job(arm, seed, (*overrides, *_ALONE), work / arm / f"seed-{seed}") for seed in range(seeds) for arm in ARMS]
    parts = each_seed(_train, [(job,) for job in jobs], workers, "trainings done")
    return pd.concat(parts, ignore_index=True).round(_DECIMALS)


def _train(job: Job) -> pd.DataFrame:
    """Train one arm in a process of its own; what it says of the held-out folds."""
    from client.evaluation import write_predictions
    from client.site import Site

    torch.set_num_threads(1)
    run = RunFolder(job.folder)
    folder = run.site("everybody")
    if not folder.predictions.is_file():
        config = compose([*job.overrides, f"run.seed={job.seed}"])
        database = Database.configured(config.data, progress=False)
        if job.arm == "permuted":
            database = with_permuted_labels(database, config.data, job.seed)
        site = Site(SiteData("everybody", database, np.arange(len(database)), config), folder)
        write_predictions(site, shared_detector(config, train_alone(site.data, folder.private_model, config).detector))
    return pd.read_csv(folder.predictions).assign(arm=job.arm, seed=job.seed)[_KEPT]


def with_permuted_labels(database: Database, data: DataConfig, seed: int) -> Database:
    """Deal the labels of the training records out among them; those of the other folds stay true."""
    labels, rows = database.labels.copy(), database.in_folds(*data.train_folds)
    labels[rows] = labels[np.random.default_rng(seed).permutation(rows)]
    return dataclasses.replace(database, labels=labels)


def write_population_predictions(predictions: pd.DataFrame, folder: Path = FOLDER) -> None:
    """Keep the predictions behind the results, small: ``lavq evaluate`` re-scores one arm and seed of them."""
    kept = folder / "predictions" / "population.csv.gz"
    kept.parent.mkdir(parents=True, exist_ok=True)
    predictions.to_csv(kept, index=False, compression={"method": "gzip", "mtime": 0})


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
