"""Macro AUC of an experiment's arms from their predictions, and what one arm gains over another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.metrics.auc import BOOTSTRAPS, class_aucs, weighted_auc
from simulations.experiments.results_file import Row


def score(predictions: pd.DataFrame) -> list[Row]:
    """Macro AUC pooled, per hospital, their mean and the worst one, for every arm.

    A value is the mean over seeds. Its interval is that of the mean over seeds when patients are drawn 1,000 times: it
    says how much another sample of patients would change the figure, and averages over the seeds' own spread.
    """
    rows = []
    for arm, table in predictions.groupby("arm", sort=False):
        seeds = int(table["seed"].nunique())
        groups = {f"macro_auc.site.{name}": part for name, part in table.groupby("site")}
        found = {metric: mean_over_seeds(part) for metric, part in groups.items()}
        per_site = list(found.values())
        if not str(arm).startswith("leave-out/"):  # scored at one hospital only
            worst = min(per_site, key=lambda item: item[0])
            mean = float(np.mean([value for value, _, _ in per_site]))
            together = (mean, np.mean([draws for _, draws, _ in per_site], axis=0), table["ecg_id"].nunique())
            found = {"macro_auc.pooled": mean_over_seeds(table), **found, "macro_auc.site_macro": together}
            found["macro_auc.worst_site"] = worst
        rows += [row_of(str(arm), metric, value, draws, n, seeds) for metric, (value, draws, n) in found.items()]
    return rows


def row_of(arm: str, metric: str, value: float, draws: np.ndarray, n: int, seeds: int = 1) -> Row:
    """Make a row of a figure and its ``(b,)`` values in draws of patients: the interval holds 95 % of these."""
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return Row(arm, metric, float(value), float(low), float(high), n, seeds)


def gains(predictions: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> list[Row]:
    """Pooled macro AUC of one arm less another's, ``macro_auc_gain.OTHER``; both see the same draws of patients.

    Raises:
        ValueError: the two are not scored on the same records.
    """
    found = {arm: mean_over_seeds(table) for arm, table in predictions.groupby("arm")}
    scored = {arm: set(table["ecg_id"]) for arm, table in predictions.groupby("arm")}
    rows = []
    for arm, other in pairs:
        if scored[arm] != scored[other]:
            raise ValueError(f"{arm} and {other} are scored on other records")
        (value, draws, n), (less, other_draws, _) = found[arm], found[other]
        seeds = int(predictions.loc[predictions["arm"] == arm, "seed"].nunique())
        rows.append(row_of(arm, f"macro_auc_gain.{other}", value - less, draws - other_draws, n, seeds))
    return rows


def mean_over_seeds(table: pd.DataFrame) -> tuple[float, np.ndarray, int]:
    """Macro AUC ``(value, (b,) bootstrap draws, records)`` of one arm; every seed sees the same draws of patients.

    So does every arm that is scored on the same records: draws can be subtracted.
    """
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
