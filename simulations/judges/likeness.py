"""Is a twin still its patient, and does it look like a real record? Figures from the signals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.metrics.auc import Interval
from lavq_core.metrics.distances import dtw, frechet_distance, knn_precision_recall
from lavq_core.metrics.features import FEATURES, features
from lavq_core.metrics.twins import bootstrap_mean, heart_rate_change, identity_top1, outside_gate_change
from simulations.judges.bench import Bench, TwinSet
from simulations.judges.disease import Figure
from simulations.judges.intervals import interval, jackknife, patient_weights
from simulations.judges.probe import EPOCHS, probe

AMONG = 400
"""Healthy patients among whom a twin has to find its own; all there are, where there are fewer."""

_STEADY = 3.0  # beats per minute
_SET_FIGURES = {"frechet": np.inf, "knn_precision": 1.0, "knn_recall": 1.0}  # and the most each can be


def patient_figures(twins: TwinSet, bench: Bench) -> Iterator[Figure]:
    """Figures of twins beside their originals.

    Yields:
        ``identity_top1.CLASS``: share of the twins of a class that are nearest to their own patient.
        ``heart_rate_within_3bpm``: share; a twin without beats is not within. ``outside_change_uV``: the largest of
        all twins, without an interval. ``changed_share``: of a twin's samples. ``dtw``: distance of the median beats,
        since the rhythm is the original's.
    """
    plan, seed = bench.plan, bench.seed
    owners, original = bench.patients(plan.patient), bench.signals(plan.patient)
    hits = _finds_itself(twins.median, plan.patient, bench)
    for c in range(1, len(SUPERCLASSES)):
        rows = plan.labels[:, c] == 1
        if rows.any():
            yield f"identity_top1.{SUPERCLASSES[c]}", bootstrap_mean(hits[rows], owners[rows], seed)
    change = heart_rate_change(original, twins.signal, bench.database.sampling_rate)
    yield "heart_rate_within_3bpm", bootstrap_mean(np.abs(change) <= _STEADY, owners, seed)
    outside = outside_gate_change(original, twins.signal, twins.envelope)
    if not np.isnan(outside).all():
        largest = float(np.nanmax(outside))
        yield "outside_change_uV", Interval(largest, largest, largest, int((~np.isnan(outside)).sum()))
    yield "changed_share", bootstrap_mean((twins.envelope > 0).mean(axis=1), owners, seed)
    before = bench.beats.median[plan.patient]
    yield "dtw", bootstrap_mean(dtw(before, twins.median), owners, seed)


def real_patient_figures(bench: Bench, held_out: Sequence[int]) -> Iterator[Figure]:
    """What a patient's other records score: ``identity_top1``; and another person's: ``dtw``."""
    table, plan = bench.database.table, bench.plan
    everybody = table["patient_id"].to_numpy()
    other = table["strat_fold"].isin(held_out).to_numpy() & bench.beats.found()
    other &= np.isin(everybody, everybody[plan.healthy])
    other[plan.healthy] = False
    again = np.flatnonzero(other)
    if len(again):
        owner_of = dict(zip(everybody[plan.healthy].tolist(), plan.healthy.tolist(), strict=True))
        first = np.array([owner_of[patient] for patient in everybody[again].tolist()], dtype=np.int64)
        hits = _finds_itself(bench.beats.median[again], first, bench)
        yield "identity_top1", bootstrap_mean(hits, everybody[again], bench.seed)
    distance = dtw(bench.beats.median[plan.patient], bench.beats.median[plan.real])
    yield "dtw", bootstrap_mean(distance, bench.patients(plan.patient), bench.seed)


def _finds_itself(median_beats: np.ndarray, owners: np.ndarray, bench: Bench) -> np.ndarray:
    healthy = bench.plan.healthy
    gallery = bench.beats.median[healthy]
    return identity_top1(
        median_beats, np.searchsorted(healthy, owners), gallery, min(AMONG, len(gallery)), seed=bench.seed
    )


def realism_figures(
    signals: np.ndarray, patients: np.ndarray, bench: Bench, probe_epochs: int = EPOCHS
) -> Iterator[Figure]:
    """Figures of ECGs as a set, beside the real records of the plan.

    Args:
        signals: ``(n, 8, T)`` mV in the plan's order, twins or whatever answers its requests.
        patients: ``(n,)`` whose they are.
        bench: plan and real records.
        probe_epochs: of the realism probe; 0 leaves the probe out.

    Yields:
        ``probe_auc`` and ``probe_auc.CLASS``: a fresh network tells them from real records, .5 if it cannot.
        ``frechet``, ``knn_precision`` and ``knn_recall`` on fixed features; left out where there are no more ECGs than
        features. Frechet distances are comparable at equal n only.
    """
    real, sources = bench.signals(bench.plan.real), bench.patients(bench.plan.real)
    rate = bench.database.sampling_rate
    if probe_epochs > 0:
        yield from _probe_figures(signals, patients, bench, probe_epochs)
    yield from _set_figures(features(signals, rate), features(real, rate), patients, sources, bench.seed)


def _probe_figures(signals: np.ndarray, patients: np.ndarray, bench: Bench, epochs: int) -> Iterator[Figure]:
    plan, real, sources = bench.plan, bench.signals(bench.plan.real), bench.patients(bench.plan.real)
    rate = bench.database.sampling_rate
    probed = probe(torch.from_numpy(signals), torch.from_numpy(real), patients, sources, rate, bench.seed, epochs)
    made, kept = patient_weights(patients, sources, seed=bench.seed)
    yield "probe_auc", interval(probed.auc(weights=(made, kept)), len(signals))
    for c in range(1, len(SUPERCLASSES)):
        rows = plan.labels[:, c] == 1
        if rows.any():
            name = f"probe_auc.{SUPERCLASSES[c]}"
            yield name, interval(probed.auc(rows, rows, (made, kept)), int(rows.sum()))


def _set_figures(
    made: np.ndarray, real: np.ndarray, made_patients: np.ndarray, real_patients: np.ndarray, seed: int
) -> Iterator[Figure]:
    """Distances of two sets of features ``(n, F)``, ``(m, F)``."""

    def figures(keep: Sequence[np.ndarray]) -> np.ndarray:
        a, b = made[keep[0]], real[keep[1]]
        return np.array([frechet_distance(a, b), *knn_precision_recall(b, a)])

    if min(len(made), len(real)) * 0.8 <= FEATURES:  # the jackknife leaves a tenth of the patients out
        return
    found = jackknife(figures, (made_patients, real_patients), seed)
    for (name, largest), each in zip(_SET_FIGURES.items(), found, strict=True):
        yield name, replace(each, low=max(each.low, 0.0), high=min(each.high, largest))
