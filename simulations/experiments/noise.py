"""Noise found without noise labels, beside the quality gate and measures of bands: results file ``noise``.

Every seed learns from the training folds without any remark on noise (``lavq_core.training.noise_score``). Folds 9 and
10 are then compared with what PTB-XL's annotators remarked (``REMARKS``), which no arm is fitted to. Remarks did guide
the design: that ``learned`` is the residual of the loudest second of the worst lead, and not the distance ``clusters``,
was chosen on the remarks of the training folds, after the first version had been seen to fail on the bundled sample,
whose 182 records of folds 9 and 10 are among those that are scored.

A remark is not the truth: hospitals remark other things with other devices, and so a record is compared with records
of its own recording site alone.

==================  ====================================================================================================
``learned``         what the autoencoder could not write, in the loudest second of the worst lead
``clusters``        distance from clusters of its features, of the worst lead (``noise_clusters``)
``low-band``        root mean square below .5 Hz, of the worst lead: drift, by hand
``high-band``       ... above 35 Hz: static, by hand
``rules``           the quality gate: 1 where it flags a record, 0 where it accepts (rejected ones were never packed)
``random``          numbers: the control
==================  ====================================================================================================

``auc.REMARK`` is against all records without that remark, ``auc.any`` for any of them. ``sensitivity.any`` is the share
of remarked records found when as many of the others are called noisy as the gate flags. ``auc.abnormal`` is what a
noise score should not tell: abnormal records from NORM ones, among those without any remark; .5 is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.data.ptbxl import TABLE
from lavq_core.metrics.auc import BOOTSTRAPS, weighted_auc
from lavq_core.metrics.population import draws_of_patients, interval_of_draws
from lavq_core.runs.layout import write_atomic
from lavq_core.signals.bands import DRIFT, band_size
from lavq_core.signals.quality import Verdict
from lavq_core.training.noise_score import NoiseScore
from simulations.experiments.jobs import keep_predictions
from simulations.experiments.noise_clusters import Clusters
from simulations.experiments.pool import each_seed
from simulations.experiments.results_file import Row
from simulations.experiments.seeds import over_seeds

REMARKS = ("static_noise", "burst_noise", "baseline_drift", "electrodes_problems")
"""Columns of PTB-XL's table: text where an annotator saw it, and in which leads."""

ARMS = ("learned", "clusters", "low-band", "high-band", "rules", "random")
_HIGH = 35.0  # Hz, above which is little of a heart


def run_noise(overrides: Sequence[str], seeds: int, work: Path, workers: int) -> list[Row]:
    """Fit and score every seed; finished ones in ``work`` are not repeated.

    Returns:
        Rows of this module's table, means over seeds. Scores of records are kept beside the results files.
    """
    jobs = [(tuple(overrides), seed, work) for seed in range(seeds)]
    scores = pd.concat(each_seed(score_seed, jobs, workers, "seeds fitted"), ignore_index=True)
    keep_predictions(scores, "noise", decimals=4)
    database = Database.configured(compose(overrides).data)
    return measure(scores, remarks(database), database)


def score_seed(overrides: tuple[str, ...], seed: int, work: Path) -> pd.DataFrame:
    """One seed: ecg_id, a column an arm, seed; records of the validation and test folds."""
    torch.set_num_threads(1)
    file = work / f"seed-{seed}.csv"
    if not file.is_file():
        data = compose(overrides).data
        database = Database.configured(data, progress=False)
        rate = database.sampling_rate
        training = database.signals(database.in_folds(*data.train_folds)).numpy()
        learned = NoiseScore.fit(training, rate, seed)
        clusters = Clusters.fit(learned.features(training, rate), seed)
        held_out = database.in_folds(data.validation_fold, data.test_fold)
        signals, ids = database.signals(held_out).numpy(), database.table.index[held_out]
        scores = {
            "learned": learned(signals, rate).max(axis=1),
            "clusters": clusters.distances(learned.features(signals, rate)).max(axis=1),
            "low-band": band_size(signals, rate, 0.0, DRIFT).max(axis=1),
            "high-band": band_size(signals, rate, _HIGH, rate / 2.0).max(axis=1),
            "rules": (database.quality.loc[ids, "verdict"] == Verdict.FLAG.value).to_numpy(dtype=float),
            "random": np.random.default_rng(seed).random(len(ids)),
        }
        write_atomic(file, pd.DataFrame({"ecg_id": ids, **scores}).to_csv(index=False))
    return pd.read_csv(file).assign(seed=seed)


def remarks(database: Database) -> pd.DataFrame:
    """What the annotators remarked of the usable records: a column of 0 and 1 for each of ``REMARKS``, by ecg_id."""
    table = pd.read_csv(database.folder / TABLE, usecols=["ecg_id", *REMARKS], dtype=dict.fromkeys(REMARKS, str))
    of_usable = table.set_index("ecg_id").loc[database.table.index, list(REMARKS)]
    return of_usable.apply(lambda column: column.fillna("").str.strip() != "")


def measure(scores: pd.DataFrame, remarked: pd.DataFrame, database: Database) -> list[Row]:
    """Rows of this module's table.

    Args:
        scores: of ``score_seed``, one or more seeds.
        remarked: of ``remarks``.
        database: whose patients and labels.
    """
    rows = []
    for _, part in scores.groupby("seed"):
        positions = database.positions_of(list(part["ecg_id"]))
        noisy = remarked.iloc[positions].to_numpy(dtype=bool)  # (n, remarks)
        patients = database.table["patient_id"].to_numpy()[positions]
        sites = database.table["site"].to_numpy()[positions]
        norm = database.norm_only()[positions]
        ill = database.labels[positions, 1:].any(axis=1)
        asked = {name: (np.ones(len(part), dtype=bool), noisy[:, c]) for c, name in enumerate(REMARKS)}
        asked["any"] = (asked["static_noise"][0], noisy.any(axis=1))
        asked["abnormal"] = (~noisy.any(axis=1) & (norm | ill), ill)
        rows += _aucs(part, asked, patients, sites) + _at_the_gate(part, asked["any"][1], patients)
    counts = [
        Row("remarked", f"records.{name}", float(yes[chosen].sum()), *2 * (float(yes[chosen].sum()),), len(yes), 1)
        for name, (chosen, yes) in asked.items()
    ]
    return over_seeds(rows) + counts


def _aucs(
    scores: pd.DataFrame, asked: dict[str, tuple[np.ndarray, np.ndarray]], patients: np.ndarray, sites: np.ndarray
) -> list[Row]:
    """AUC of every arm; ``asked`` holds which records count, and which of them should score high."""
    rows, weights = [], draws_of_patients(patients, 0, BOOTSTRAPS)  # (1 + b, n)
    for arm in ARMS:
        said = scores[arm].to_numpy(dtype=float)
        for name, (chosen, yes) in asked.items():
            drawn = within(yes[chosen], said[chosen], weights[:, chosen], sites[chosen])
            found = interval_of_draws("auc", drawn, int(chosen.sum()))
            if found is not None:
                rows.append(Row(arm, f"auc.{name}", found.value, found.low, found.high, found.n, 1))
    return rows


def within(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """AUC over the pairs of records whose group is the same: ``weighted_auc`` of each, weighted by its pairs.

    Args:
        labels, scores, groups: ``(n,)``.
        weights: ``(b, n)``.

    Returns:
        ``(b,)``; NaN where no group has both.
    """
    wins, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        yes, w = labels[rows].astype(bool), weights[:, rows]
        count = w[:, yes].sum(axis=1) * w[:, ~yes].sum(axis=1)
        wins += np.where(count > 0, count * np.nan_to_num(weighted_auc(yes.astype(float), scores[rows], w)), 0.0)
        pairs += count
    return np.divide(wins, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def _at_the_gate(scores: pd.DataFrame, noisy: np.ndarray, patients: np.ndarray) -> list[Row]:
    """Share of noisy records found, when as many of the others are called noisy as the gate flags."""
    flagged = scores["rules"].to_numpy() > 0
    weights = draws_of_patients(patients, 0, BOOTSTRAPS)[:, noisy]  # (1 + b, remarked)
    rows = []
    for arm in ARMS:
        said = scores[arm].to_numpy(dtype=float)
        called = flagged if arm == "rules" else said > np.quantile(said[~noisy], 1.0 - flagged[~noisy].mean())
        total = weights.sum(axis=1)
        shares = np.divide(weights @ called[noisy], total, out=np.full(len(weights), np.nan), where=total > 0)
        found = interval_of_draws("sensitivity", shares, int(noisy.sum()))
        if found is not None:
            rows.append(Row(arm, "sensitivity.any", found.value, found.low, found.high, found.n, 1))
    return rows
