"""Reliability: of the ECGs to which a detector gave a probability of about p, how many have the disease?

The five superclasses are taken together, each record giving five pairs of probability and label, for the records of one
hospital are too few for a curve of each. Bins hold about as many pairs each (as in ``weighted_ece``); a bin's share of
positives has a 95 % interval from draws of patients, so the five pairs and the records of one person count as one piece
of evidence (DeGroot & Fienberg, The Statistician 1983; Broecker & Smith, Weather and Forecasting 2007, for the bars).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lavq_core.metrics.auc import BOOTSTRAPS, Interval
from lavq_core.metrics.classification import weighted_ece
from lavq_core.metrics.population import draws_of_patients, interval_of_draws

_MOST, _FEWEST = 10, 20  # bins; pairs in one


@dataclass(frozen=True)
class Bin:
    """Pairs of about the same probability."""

    said: float  # mean probability
    happened: Interval  # share of positives; n pairs


@dataclass(frozen=True)
class Reliability:
    """A detector's calibration on some records, over all classes."""

    bins: tuple[Bin, ...]  # by probability
    error: Interval  # expected calibration error; n records


def reliability(
    labels: np.ndarray, probabilities: np.ndarray, patients: np.ndarray, seed: int = 0, draws: int = BOOTSTRAPS
) -> Reliability | None:
    """Measure the calibration of probabilities; None without records.

    Args:
        labels: ``(n, C)`` of 0 and 1.
        probabilities: ``(n, C)``.
        patients: ``(n,)`` identifiers.
        seed: of the draws.
        draws: of patients, behind the intervals.
    """
    n, classes = labels.shape
    if n == 0:
        return None
    weights = np.repeat(draws_of_patients(patients, seed, draws), classes, axis=1)  # (1 + draws, n C)
    y, p = labels.ravel().astype(float), probabilities.ravel().astype(float)  # (n C,)
    error = interval_of_draws("ece", weighted_ece(y, p, weights), n)
    if error is None:
        raise ValueError("a calibration error of no known probability")
    return Reliability(tuple(_bin(y[rows], p[rows], weights[:, rows]) for rows in _rows(p)), error)


def _rows(p: np.ndarray) -> list[np.ndarray]:
    """Deal pairs into bins of about equal size; equal probabilities stay together."""
    count = max(1, min(_MOST, len(p) // _FEWEST))
    edges = np.quantile(p, np.arange(1, count) / count)
    place = np.searchsorted(edges, p, side="left")
    return [np.flatnonzero(place == number) for number in np.unique(place)]


def _bin(y: np.ndarray, p: np.ndarray, weights: np.ndarray) -> Bin:
    total = weights.sum(axis=1)
    share = np.divide(weights @ y, total, out=np.full(len(weights), np.nan), where=total > 0)
    found = interval_of_draws("happened", share, len(y))
    value = float(y.mean())
    return Bin(float(p.mean()), found if found is not None else Interval(value, 0.0, 1.0, len(y)))
