"""What federation does for the detector: the matrix of methods and partitions, and sites left out.

All arms run the same code for the same number of passes over the data. The test fold is scored once, by each arm's
final detector; a record is reported under the hospital that the site partition gives it to. An arm is
``METHOD/PARTITION`` or ``leave-out/SITE``: federated averaging among the other hospitals, scored at the one left out.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.errors import ConfigError
from lavq_core.metrics.auc import macro_auc
from lavq_core.models.stored import load_shared_model, shared_detector
from lavq_core.runs.artefact import load_artefact
from lavq_core.runs.events import read_events
from lavq_core.runs.layout import RunFolder, write_atomic
from lavq_core.settings import Config
from lavq_core.training.site_data import SiteData, database_scores
from simulations.experiments.generators import ONE_SITE
from simulations.experiments.jobs import Job, federate, keep_predictions
from simulations.experiments.pool import each_seed
from simulations.experiments.results_file import Row
from simulations.experiments.scores import score
from simulations.launch import quoted
from simulations.partitions import partition
from simulations.wire import byte_counts

NO_TWINS = ("twins.per_record=0", "separator_training.steps=0", "federation.share=[]")
"""Settings of a training without twins: nobody then needs the separator and its networks."""
_MOMENTS = ("federation.average_moments=true",)  # of a site alone: its optimiser is never started anew
_ROUND_SPLIT, _STEPS = 4, 36  # the recipe's rounds are shorter, and every site takes the same number of steps
METHODS = {
    "centralised": (*NO_TWINS, *_MOMENTS),
    "local": (*NO_TWINS, *_MOMENTS),
    "fedavg": (),
    "fedavg-no-twins": NO_TWINS,
    "fedprox": ("federation.strategy=fedprox", *NO_TWINS),
    "fedadam": ("federation.strategy=fedadam", *NO_TWINS),
    "fedavg-moments": (*NO_TWINS, *_MOMENTS),
    "leave-out": NO_TWINS,
}
PARTITIONS = {"site": "site", "dirichlet-0.1": "dirichlet:0.1", "iid": "iid"}


def arms_of(methods: Sequence[str], partitions: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """List the arms of some methods; ``centralised`` knows no partition, ``leave-out`` has an arm for each hospital.

    Args:
        methods: in each of ``partitions``, or ``METHOD/PARTITION`` in that one alone.
        partitions: by name.
        overrides: the experiment's, which say how many hospitals there are.

    Raises:
        ConfigError: a method or a partition that does not exist.
    """
    arms: list[str] = []
    for asked in methods:
        method, _, only = asked.partition("/")
        _require(method, METHODS)
        for where in [only] if only else partitions:
            _require(where, PARTITIONS)
        if method == "leave-out":
            arms += [f"leave-out/{name}" for name in hospitals_of(compose(overrides))[1]]
        elif only or method == "centralised":
            arms.append(f"{method}/{only or 'site'}")
        else:
            arms += [f"{method}/{where}" for where in partitions]
    return arms


def _require(name: str, known: Collection[str]) -> None:
    if name not in known:
        raise ConfigError(f"there is no arm or partition {name!r}: choose of {', '.join(known)}")


def run_federation(
    overrides: Sequence[str], seeds: int, work: Path, workers: int, methods: Sequence[str], partitions: Sequence[str]
) -> list[Row]:
    """Train every arm with every seed; finished trainings in ``work`` are not repeated.

    Args:
        overrides, seeds, work, workers: as in every experiment.
        methods, partitions: as ``arms_of`` takes them.

    Returns:
        Rows of ``score``, and what the trainings cost: ``bytes_per_round`` (of one site, both ways) and
        ``rounds_to_99_percent``. Predictions on the test fold are kept beside the results files.
    """
    jobs = [
        Job(arm, seed, tuple(overrides), work / arm.replace("/", "-") / f"seed-{seed}")
        for seed in range(seeds)
        for arm in arms_of(methods, partitions, overrides)
    ]
    done = each_seed(_train, [(job,) for job in jobs], workers, "trainings done")
    predictions = pd.concat([table for table, _ in done], ignore_index=True)
    keep_predictions(predictions.drop(columns="fold"), "federation", decimals=3)
    return score(predictions) + _costs(jobs, [cost for _, cost in done])


def _train(job: Job) -> tuple[pd.DataFrame, dict[str, float]]:
    """Train one arm in a process of its own; its predictions on the test fold, and what it cost."""
    file, cost, local = job.folder / "test-predictions.csv", job.folder / "cost.json", job.arm.startswith("local")
    if not (file.is_file() and cost.is_file()):
        table = _train_local(complete_overrides(job)) if local else _train_together(job)
        table.to_csv(file, index=False)
        write_atomic(cost, json.dumps({} if local else _cost(RunFolder(job.folder))))
    return pd.read_csv(file).assign(arm=job.arm, seed=job.seed), json.loads(cost.read_text(encoding="utf-8"))


def complete_overrides(job: Job) -> list[str]:
    """Every override of a training: the experiment's, then those of its arm."""
    method, where = job.arm.split("/", 1)
    config = compose(job.overrides)
    added = [*METHODS[method], f"run.seed={job.seed}", f"run.dir={quoted(job.folder)}"]
    if method == "centralised":
        added += ONE_SITE
    elif where in PARTITIONS:
        added.append(f"partition.scheme={PARTITIONS[where]}")
    if method == "fedavg-moments":
        training, rounds = config.detector_training, config.federation.rounds * _ROUND_SPLIT
        added += [f"federation.rounds={rounds}", f"detector_training.epochs={training.epochs / _ROUND_SPLIT}"]
        added.append(f"detector_training.steps={training.steps or _STEPS}")
    if method == "leave-out":
        sites = config.federation.sites - 1
        added += [f"federation.sites={sites}", f"federation.min_sites={min(sites, config.federation.min_sites)}"]
    return [*job.overrides, *added]


def _train_together(job: Job) -> pd.DataFrame:
    overrides, run, hospitals = complete_overrides(job), RunFolder(job.folder), compose(job.overrides)
    method, where = job.arm.split("/", 1)
    if method == "leave-out":
        database, shares = hospitals_of(hospitals)
        federate(overrides, len(shares), absent={list(shares).index(where)})
        return scores_at(where, database, shares[where], run)
    federate(overrides)
    return _by_hospital([pd.read_csv(site.predictions) for site in run.sites()], hospitals)


def scores_at(name: str, database: Database, positions: np.ndarray, run: RunFolder) -> pd.DataFrame:
    """Test predictions of a run's final detector at a hospital that took no part."""
    from simulations.experiments.alone import predictions_at

    shared = load_shared_model(run)
    table = predictions_at(SiteData(name, database, positions, shared.config), run.site(name), shared.detector)
    return table[table["fold"] == shared.config.data.test_fold]


def _cost(run: RunFolder) -> dict[str, float]:
    """Bytes of one round and site, and the rounds until the pooled validation AUC has 99 % of its final value."""
    shared = load_shared_model(run)
    config, database = shared.config, Database.configured(shared.config.data)
    positions = database.in_folds(config.data.validation_fold)
    scores = []
    for number in range(1, config.federation.rounds + 1):
        detector = shared_detector(config, load_artefact(run.checkpoint(number))[0]["detector"])
        scores.append(macro_auc(database.labels[positions], database_scores(detector, database, positions)))
    reached = next(number for number, value in enumerate(scores, 1) if value >= 0.99 * scores[-1])
    return {
        "bytes_per_round": sum(map(float, byte_counts(read_events(run.events)).values())),
        "rounds_to_99_percent": float(reached),
    }


def _costs(jobs: Sequence[Job], costs: Sequence[dict[str, float]]) -> list[Row]:
    """Means over seeds; the interval is the seeds' range."""
    rows = []
    for arm in dict.fromkeys(job.arm for job in jobs):
        found = [cost for job, cost in zip(jobs, costs, strict=True) if job.arm == arm]
        for metric in found[0]:
            values = [cost[metric] for cost in found]
            rows.append(Row(arm, metric, float(np.mean(values)), min(values), max(values), 0, len(values)))
    return rows


def _train_local(overrides: Sequence[str]) -> pd.DataFrame:
    """Every hospital alone."""
    from simulations.experiments.alone import train_alone

    config = compose(overrides)
    run, database = RunFolder(Path(config.run.dir)), Database.configured(config.data)
    shutil.rmtree(run.root, ignore_errors=True)  # what a broken-off training has left
    shares = partition(database.table, config.partition.scheme, config.federation.sites, config.partition.seed)
    parts = [train_alone(SiteData(name, database, rows, config), run.site(name)) for name, rows in shares.items()]
    return _by_hospital(parts, config)


def _by_hospital(parts: Sequence[pd.DataFrame], config: Config) -> pd.DataFrame:
    """Test predictions of all sites, each record under the hospital that recorded it, whatever the partition."""
    database, shares = hospitals_of(config)
    table = pd.concat(parts, ignore_index=True)
    table = table[table["fold"] == config.data.test_fold]
    owner = {ecg_id: name for name, rows in shares.items() for ecg_id in database.table.index[rows]}
    return table.assign(site=table["ecg_id"].map(owner))


def hospitals_of(config: Config) -> tuple[Database, dict[str, np.ndarray]]:
    """Open the database and deal it out by recording site: positions by hospital."""
    database = Database.configured(config.data)
    return database, partition(database.table, "site", config.federation.sites, config.partition.seed)
