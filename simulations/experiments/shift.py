"""Hospitals that took no part in training: results file ``shift``.

Each hospital of the ``site`` partition is left out in turn; one detector is trained on the training folds of all the
others together, and scored on **every** record of the hospital that was left out, for nobody there was trained on and
nothing is chosen there.

==============  ========================================================================================================
``none``        no augmentation
``standard``    the preset's own (``lavq_core.training.augmentation``)
``tada``        ... and adversarial time warps of every second record (``lavq_core.training.tada``)
``twins``       standard, and twins of the others' healthy patients, by a generator trained on the others alone
``twins-tada``  both
==============  ========================================================================================================

``macro_auc.site.NAME``, their mean ``macro_auc.site_macro`` and ``macro_auc.worst_site``; ``gain.site.NAME`` and
``gain.site_macro`` are an arm less ``standard``, in the same draws of patients.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lavq_core.config import compose
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import ConfigError
from lavq_core.models.stored import shared_detector
from lavq_core.runs.layout import write_atomic
from lavq_core.training.site_data import SiteData
from simulations.experiments.federation import NO_TWINS, hospitals_of
from simulations.experiments.jobs import Job, keep_predictions
from simulations.experiments.pool import each_seed
from simulations.experiments.results_file import Row
from simulations.experiments.scores import mean_over_seeds, row_of
from simulations.experiments.seeds import over_seeds

_NO_CHANGE = tuple(
    f"detector_training.{name}=0" for name in ("noise", "amplitude", "shift", "warp", "wander", "lead_dropout")
)
_WARPS = ("detector_training.tada=0.05",)
ARMS = {
    "none": (*NO_TWINS, *_NO_CHANGE),
    "standard": NO_TWINS,
    "tada": (*NO_TWINS, *_WARPS),
    "twins": (),
    "twins-tada": _WARPS,
}
REFERENCE = "standard"


def run_shift(overrides: Sequence[str], seeds: int, work: Path, workers: int, arms: Sequence[str]) -> list[Row]:
    """Train every arm without every hospital, with every seed; finished trainings in ``work`` are not repeated.

    Returns:
        Rows of this module's table. Predictions are kept beside the results files.

    Raises:
        ConfigError: an arm that does not exist.
    """
    for arm in arms:
        if arm not in ARMS:
            raise ConfigError(f"there is no arm {arm!r}: choose of {', '.join(ARMS)}")
    _, shares = hospitals_of(compose(overrides))
    jobs = [
        (Job(arm, seed, (*overrides, *ARMS[arm]), work / arm / name / f"seed-{seed}"), name)
        for seed in range(seeds)
        for name in shares
        for arm in arms
    ]
    predictions = pd.concat(each_seed(train_without, jobs, workers, "trainings done"), ignore_index=True)
    keep_predictions(predictions[["ecg_id", "site", *SUPERCLASSES, "arm", "seed"]], "shift", decimals=3)
    return score(predictions)


def train_without(job: Job, name: str) -> pd.DataFrame:
    """Train one arm without one hospital, in a process of its own.

    Returns:
        What it says of all records there: ecg_id, patient_id, site, probabilities, true labels, arm, seed.
    """
    from simulations.experiments.alone import rounds_alone

    torch.set_num_threads(1)
    file = job.folder / "predictions.csv"
    if not file.is_file():
        config = compose([*job.overrides, "federation.average_moments=true", f"run.seed={job.seed}"])
        database, shares = hospitals_of(config)
        others = np.concatenate([rows for site, rows in shares.items() if site != name])
        site = SiteData("others", database, np.sort(others), config)
        detector = shared_detector(config, rounds_alone(site, job.folder / "private").detector)
        there = shares[name]
        table = database.table.iloc[there][["patient_id"]].reset_index().assign(site=name)
        table[list(SUPERCLASSES)] = site.scores(detector, there)
        table[[f"true_{label}" for label in SUPERCLASSES]] = database.labels[there].astype(int)
        write_atomic(file, table.to_csv(index=False, float_format="%.6f"))
    return pd.read_csv(file).assign(arm=job.arm, seed=job.seed)


def score(predictions: pd.DataFrame) -> list[Row]:
    """Rows of this module's table, means over seeds, from predictions of ``train_without``."""
    counts = predictions.groupby("site", sort=False)["ecg_id"].nunique()
    # By arm, seed and place (1 + b,): the figure itself, and in draws of patients that are the same for all arms.
    found: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    for (arm, seed, site), part in predictions.groupby(["arm", "seed", "site"], sort=False):
        value, drawn, _ = mean_over_seeds(part)
        of_seed = found.setdefault(str(arm), {}).setdefault(int(seed), {})
        of_seed[f"site.{site}"] = np.concatenate([[value], drawn])
    for of_arm in found.values():
        for places in of_arm.values():
            places["site_macro"] = np.mean(list(places.values()), axis=0)
    rows = []
    for arm, of_arm in found.items():
        worst = min((f"site.{site}" for site in counts.index), key=lambda place: _mean(of_arm.values(), place))
        for seed, places in of_arm.items():
            rows += [_row(arm, f"macro_auc.{place}", curve, counts) for place, curve in places.items()]
            rows.append(_row(arm, "macro_auc.worst_site", places[worst], counts))
            if arm != REFERENCE and REFERENCE in found:
                plain = found[REFERENCE][seed]
                rows += [_row(arm, f"gain.{place}", curve - plain[place], counts) for place, curve in places.items()]
    return over_seeds(rows)


def _mean(of_arm: Iterable[dict[str, np.ndarray]], place: str) -> float:
    return float(np.mean([places[place][0] for places in of_arm]))


def _row(arm: str, metric: str, curve: np.ndarray, counts: pd.Series) -> Row:
    n = int(counts.get(metric.split(".site.")[-1], counts.sum()))
    return row_of(arm, metric, curve[0], curve[1:], n)
