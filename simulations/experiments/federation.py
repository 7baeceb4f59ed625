"""What federation, and twins in it, do for the detector: centralised, local only, federated with and without twins.

All arms run the same code with the same settings for the same number of rounds. The test fold is scored once, by each
arm's final detector; a record is reported under the hospital that the site partition gives it to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.metrics.auc import BOOTSTRAPS, class_aucs, weighted_auc
from lavq_core.runs.layout import RunFolder
from lavq_core.settings import Config
from simulations.experiments.generators import ONE_SITE
from simulations.experiments.pool import each_seed
from simulations.experiments.results_file import FOLDER, Row
from simulations.launch import quoted
from simulations.partitions import partition

ARMS = ("centralised/site", "local/site", "fedavg/site", "fedavg-no-twins/site")
_NO_TWINS = ["twins.per_record=0", "separator_training.steps=0"]  # without twins nobody needs the separator


@dataclass(frozen=True)
class Job:
    """One training of one arm."""

    arm: str
    seed: int
    overrides: tuple[str, ...]
    folder: Path


def run_experiment(overrides: Sequence[str], seeds: int, work: Path, workers: int) -> pd.DataFrame:
    """Train every arm with every seed; finished trainings in ``work`` are not repeated.

    Returns:
        Predictions on the test fold: arm, seed, ecg_id, patient_id, site, probabilities and true labels.
    """
    jobs = [
        Job(arm, seed, tuple(overrides), work / arm.replace("/", "-") / f"seed-{seed}")
        for seed in range(seeds)
        for arm in ARMS
    ]
    parts = each_seed(_train, [(job,) for job in jobs], workers, "trainings done")
    return pd.concat(parts, ignore_index=True)


def _train(job: Job) -> pd.DataFrame:
    """Train one arm in a process of its own; its predictions on the test fold."""
    file = job.folder / "test-predictions.csv"
    if not file.is_file():
        overrides = [*job.overrides, f"run.seed={job.seed}", f"run.dir={quoted(job.folder)}"]
        table = _train_local(overrides) if job.arm.startswith("local") else _train_together(job.arm, overrides)
        table.to_csv(file, index=False)
    return pd.read_csv(file).assign(arm=job.arm, seed=job.seed)


def _train_together(arm: str, overrides: list[str]) -> pd.DataFrame:
    from simulations.inprocess import run_in_process

    overrides = overrides + (list(ONE_SITE) if arm.startswith("centralised") else [])
    overrides = overrides + (_NO_TWINS if "no-twins" in arm or arm.startswith("centralised") else [])
    config = compose(overrides)
    run = RunFolder(Path(config.run.dir))
    run_in_process(overrides, config.federation.sites)
    table = pd.concat([pd.read_csv(site.predictions) for site in run.sites()], ignore_index=True)
    return _with_hospitals(table[table["fold"] == config.data.test_fold], overrides)


def _train_local(overrides: list[str]) -> pd.DataFrame:
    """Every hospital alone: the rounds of a federation in which nobody else takes part."""
    from client import evaluation
    from client.site import Site
    from lavq_core.models.codebook import merge_statistics
    from lavq_core.models.stored import shared_detector
    from lavq_core.training.site_data import SiteData
    from lavq_core.training.site_round import SharedState, train_round
    from server.app import initial_model

    config = compose([*overrides, *_NO_TWINS])
    run, parts = RunFolder(Path(config.run.dir)), []
    database, shares = _hospitals(config)
    for name, positions in shares.items():
        site = Site(SiteData(name, database, positions, config), run.site(name))
        model, rounds = initial_model(config), config.federation.rounds
        shared = SharedState(model.detector, model.codebook, model.networks)
        for number in range(1, rounds + 1):
            update = train_round(site.data, site.folder.private_model, shared, number, rounds)
            codebook = merge_statistics(shared.codebook, [update.statistics], config.codebook.decay)
            shared = SharedState(update.detector, codebook, update.networks)
        evaluation.write_predictions(site, shared_detector(config, shared.detector))
        parts.append(pd.read_csv(site.folder.predictions))
    table = pd.concat(parts, ignore_index=True)
    return table[table["fold"] == config.data.test_fold]


def _with_hospitals(table: pd.DataFrame, overrides: Sequence[str]) -> pd.DataFrame:
    """Name each record's hospital in the site partition, whatever partition it was trained in."""
    database, shares = _hospitals(compose([o for o in overrides if o not in ONE_SITE]))
    owner = {ecg_id: name for name, rows in shares.items() for ecg_id in database.table.index[rows]}
    return table.assign(site=table["ecg_id"].map(owner))


def _hospitals(config: Config) -> tuple[Database, dict[str, np.ndarray]]:
    """Open the database and deal it out by recording site: positions by hospital."""
    database = Database.configured(config.data)
    return database, partition(database.table, "site", config.federation.sites, config.partition.seed)


def write_predictions(predictions: pd.DataFrame) -> None:
    """Keep the predictions behind the results, small and re-scorable."""
    kept = FOLDER / "predictions" / "federation.csv.gz"
    kept.parent.mkdir(parents=True, exist_ok=True)
    predictions.drop(columns=["fold"]).to_csv(
        kept, index=False, float_format="%.3f", compression={"method": "gzip", "mtime": 0}
    )


def score(predictions: pd.DataFrame) -> list[Row]:
    """Macro AUC pooled, per hospital and of the worst hospital, for every arm.

    A value is the mean over seeds. Its interval is that of the mean over seeds when patients are drawn 1,000 times: it
    says how much another sample of patients would change the figure, and averages over the seeds' own spread.
    """
    rows = []
    for arm, table in predictions.groupby("arm", sort=False):
        seeds = int(table["seed"].nunique())
        groups = {"macro_auc.pooled": table}
        groups |= {f"macro_auc.site.{name}": part for name, part in table.groupby("site")}
        found = {metric: _mean_over_seeds(part) for metric, part in groups.items()}
        for metric, (value, draws, n) in found.items():
            low, high = np.nanpercentile(draws, [2.5, 97.5])
            rows.append(Row(str(arm), metric, value, float(low), float(high), n, seeds))
        per_site = [found[metric] for metric in found if metric.startswith("macro_auc.site.")]
        worst = min(per_site, key=lambda item: item[0])
        low, high = np.nanpercentile(worst[1], [2.5, 97.5])
        rows.append(Row(str(arm), "macro_auc.worst_site", worst[0], float(low), float(high), worst[2], seeds))
    return rows


def _mean_over_seeds(table: pd.DataFrame) -> tuple[float, np.ndarray, int]:
    """Macro AUC ``(value, (b,) bootstrap draws, records)``; every seed sees the same draws of patients."""
    values, draws = [], []
    for _, part in table.sort_values("ecg_id").groupby("seed"):
        labels = part[[f"true_{name}" for name in SUPERCLASSES]].to_numpy(dtype=float)
        scores = part[list(SUPERCLASSES)].to_numpy(dtype=float)
        unique, owner = np.unique(part["patient_id"], return_inverse=True)
        counts = np.random.default_rng(0).multinomial(len(unique), np.full(len(unique), 1 / len(unique)), BOOTSTRAPS)
        per_class = [weighted_auc(labels[:, c], scores[:, c], counts[:, owner]) for c in range(len(SUPERCLASSES))]
        values.append(np.nanmean(class_aucs(labels, scores)))
        draws.append(np.nanmean(per_class, axis=0))
    return float(np.mean(values)), np.mean(draws, axis=0), int(table["ecg_id"].nunique())
