"""The population evaluation: what a detector does for whom, each figure with its interval.

Every figure has a 95 % interval from 1,000 draws of patients, not records: two records of one person are no two pieces
of evidence. All figures of an evaluation see the same draws.

=====================================  =================================================================================
``macro_auc.pooled``, ``macro_auprc``  means over the classes that have positives and negatives
``macro_auc.site.N``                   recording site N; sites with fewer than 50 records together are ``rest``
``macro_auc.site_macro``               mean over those sites, each counted alike
``macro_auc.worst_site``               the lowest of them, with its own interval
``macro_auc.sex.N``, ``age.BAND``,     subgroups of at least 50 records; sex as PTB-XL codes it, 0 male and 1 female
``device.NAME``
``auc.CLASS``, ``auprc.CLASS``         per class
``ece_raw.CLASS``                      calibration error of the probabilities as given
``brier.CLASS``, ``ece.CLASS``         after temperature
``sensitivity.CLASS``,                 at the stored threshold, the one that reached the stated sensitivity on the
``specificity.CLASS``                  validation fold; ``sensitivity_youden`` and ``specificity_youden`` at Youden's
=====================================  =================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.metrics.auc import BOOTSTRAPS, Interval, weighted_auc
from lavq_core.metrics.classification import (
    sensitivity_specificity,
    weighted_auprc,
    weighted_brier,
    weighted_ece,
)
from lavq_core.models.calibration import Calibration

FEWEST_IN_A_GROUP = 50  # records below which a subgroup gets no figure
_AGE_BANDS = {"<50": (0.0, 50.0), "50-64": (50.0, 65.0), "65-74": (65.0, 75.0), ">=75": (75.0, np.inf)}


@dataclass(frozen=True)
class Scored:
    """n records with what a detector said of them."""

    labels: np.ndarray  # (n, 5) of 0 and 1
    probabilities: np.ndarray  # (n, 5), as given
    patients: np.ndarray  # (n,) identifiers
    groups: Mapping[str, np.ndarray]  # site, sex, age, device: (n,) names, "" where unknown

    @classmethod
    def of(cls, labels: np.ndarray, probabilities: np.ndarray, table: pd.DataFrame) -> Scored:
        """Take patients and groups from rows of a database's table (``lavq_core.data.ptbxl.read_tables``)."""
        site, sex = table["site"].to_numpy(), table["sex"].to_numpy()
        groups = {
            "site": _frequent(np.where(site < 0, "", site.astype(str)), "rest"),
            "sex": _frequent(np.where(sex < 0, "", sex.astype(str)), ""),
            "age": _frequent(_age_band(table["age"].to_numpy(dtype=float)), ""),
            "device": _frequent(table["device"].str.split().str.join(" ").to_numpy(dtype=str), ""),
        }
        return cls(labels, probabilities, table["patient_id"].to_numpy(), groups)


def evaluate(
    scored: Scored, calibration: Calibration | None, seed: int = 0, bootstraps: int = BOOTSTRAPS
) -> dict[str, Interval]:
    """Measure every figure of this module's table; those that need a calibration are left out without one.

    A figure that does not exist (a class without positives) is left out too.
    """
    weights = draws_of_patients(scored.patients, seed, bootstraps)  # (1 + b, n)
    figures = (
        _discrimination(scored, weights) | _subgroups(scored, weights) | _calibration(scored, calibration, weights)
    )
    found = {name: interval_of_draws(name, values, n) for name, (values, n) in figures.items()}
    return {name: interval for name, interval in found.items() if interval is not None}


def draws_of_patients(patients: np.ndarray, seed: int, bootstraps: int) -> np.ndarray:
    """Draw patients with replacement: how often each record counts, ``(1 + b, n)``, the data itself first."""
    unique, owner = np.unique(patients, return_inverse=True)
    share = np.full(len(unique), 1.0 / max(1, len(unique)))
    draws = np.random.default_rng(seed).multinomial(len(unique), share, size=bootstraps)
    return np.concatenate([np.ones((1, len(owner))), draws[:, owner]])


Figures = dict[str, tuple[np.ndarray, int]]
"""By name: values ``(1 + b,)``, the figure itself first, and the records behind it."""


def _discrimination(scored: Scored, weights: np.ndarray) -> Figures:
    n, figures = len(scored.labels), Figures()
    for metric, measure in (("auc", weighted_auc), ("auprc", weighted_auprc)):
        columns = [measure(scored.labels[:, c], scored.probabilities[:, c], weights) for c in range(len(SUPERCLASSES))]
        both = [0 < column.sum() < n for column in scored.labels.T]  # average precision needs no negatives, chance does
        figures |= {f"{metric}.{name}": (columns[c], n) for c, name in enumerate(SUPERCLASSES) if both[c]}
        name = "macro_auc.pooled" if metric == "auc" else "macro_auprc"
        figures[name] = (_mean([columns[c] for c in range(len(SUPERCLASSES)) if both[c]], len(weights)), n)
    return figures


def _subgroups(scored: Scored, weights: np.ndarray) -> Figures:
    """Macro AUC of every group, and mean and worst of the sites."""
    figures = Figures()
    for kind, names in scored.groups.items():
        for name in sorted(set(names.tolist()) - {""}):
            rows = np.flatnonzero(names == name)
            columns = [
                weighted_auc(scored.labels[rows, c], scored.probabilities[rows, c], weights[:, rows])
                for c in range(len(SUPERCLASSES))
            ]
            figures[f"macro_auc.{kind}.{name}"] = (_mean(columns, len(weights)), len(rows))
    sites = [figure for name, figure in figures.items() if name.startswith("macro_auc.site.")]
    sites = [(values, n) for values, n in sites if not np.isnan(values[0])]
    if sites:
        figures["macro_auc.site_macro"] = (_mean([values for values, _ in sites], len(weights)), len(scored.labels))
        figures["macro_auc.worst_site"] = min(sites, key=lambda site: site[0][0])
    return figures


def _calibration(scored: Scored, calibration: Calibration | None, weights: np.ndarray) -> Figures:
    n, figures = len(scored.labels), Figures()
    calibrated = scored.probabilities if calibration is None else calibration.apply(scored.probabilities)
    for c, name in enumerate(SUPERCLASSES):
        y = scored.labels[:, c]
        figures[f"ece_raw.{name}"] = (weighted_ece(y, scored.probabilities[:, c], weights), n)
        if calibration is None or calibration.temperatures[c] is None:
            continue
        figures[f"ece.{name}"] = (weighted_ece(y, calibrated[:, c], weights), n)
        figures[f"brier.{name}"] = (weighted_brier(y, calibrated[:, c], weights), n)
        for suffix, threshold in (("", calibration.thresholds[c]), ("_youden", calibration.youden[c])):
            if threshold is not None:
                sensitivity, specificity = sensitivity_specificity(y, calibrated[:, c], threshold, weights)
                figures[f"sensitivity{suffix}.{name}"] = (sensitivity, int(y.sum()))
                figures[f"specificity{suffix}.{name}"] = (specificity, n - int(y.sum()))
    return figures


def interval_of_draws(name: str, values: np.ndarray, n: int) -> Interval | None:
    """Return the 95 % percentile interval of a figure ``(1 + b,)``, itself first; None where it is not defined.

    A drawn sample repeats patients, so its calibration error is larger than the data's own by the noise that is added:
    those draws are moved so that their mean is the figure.
    """
    value, draws = float(values[0]), values[1:]
    draws = draws[~np.isnan(draws)]
    if np.isnan(value) or len(draws) == 0:
        return None
    if name.startswith("ece"):
        draws = np.maximum(0.0, draws - (draws.mean() - value))
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(value, float(low), float(high), n)


def _mean(columns: list[np.ndarray], count: int) -> np.ndarray:
    """Mean over arrays ``(count,)`` where they are known; NaN where none is."""
    together = np.stack([*columns, np.full(count, np.nan)])
    known = ~np.isnan(together)
    return np.divide(
        np.where(known, together, 0.0).sum(axis=0),
        known.sum(axis=0),
        out=np.full(count, np.nan),
        where=known.any(axis=0),
    )


def _frequent(names: np.ndarray, otherwise: str) -> np.ndarray:
    """Keep names of at least 50 records; the others, unknown ones among them, become ``otherwise``."""
    names = names.astype(object)
    counts = pd.Series(names).value_counts()
    kept = set(counts.index[counts >= FEWEST_IN_A_GROUP]) - {""}
    return np.array([name if name in kept else otherwise for name in names], dtype=object)


def _age_band(age: np.ndarray) -> np.ndarray:
    bands = np.full(len(age), "", dtype=object)
    for name, (low, high) in _AGE_BANDS.items():
        bands[(age >= low) & (age < high)] = name
    return bands
