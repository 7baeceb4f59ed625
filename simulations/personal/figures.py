"""Figures of personalised detectors, from predictions and the cohort alone.

For eligible people, over the records after their reference (people of whom no twin can be made are in no figure):

=============================  =========================================================================================
``concordance``                primary: a person's abnormal record scores above the same person's NORM record on
                               1 - P(NORM); mean over people who have both kinds
``concordance.disease``        the same on the probability of the abnormal record's own superclasses
``concordance.all_norms``      against the later NORM records of all eligible people, each by its owner's detector
``concordance.any_order``      as the primary figure over everybody, records from before the reference too
``macro_auc.later``            macro AUC
``NAME_gain.CONTROL``          of arm ``own``: its concordance less the control's, person by person
``NAME_p.CONTROL``             two-sided p of that gain (sign-flip test over people, means of their seeds)
=============================  =========================================================================================

The primary comparison is ``concordance_p.matched-other``; the other p are not corrected for their number, and those of
``all_norms`` treat people as independent though they share NORM records.

For the paper's cohort, over its single-label records but for references (``paper.``), and for those of its people whose
NORM record came first (``paper.norm_first.``); the class with the highest probability is the answer:
``ecg_accuracy``, ``patient_accuracy`` (share of people all of whose records are right), ``macro_auc``, ``macro_f1``.
Arm ``always-norm`` answers NORM whatever it is shown; its ``paper.norm_share`` counts the references as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.metrics.auc import BOOTSTRAPS, auc_intervals
from lavq_core.metrics.concordance import concordant, sign_flip_p
from lavq_core.metrics.twins import bootstrap_mean
from simulations.experiments.results_file import Row
from simulations.experiments.seeds import over_seeds
from simulations.personal.arms import CONTROLS, OWN

_CLASSES = list(SUPERCLASSES)
_TRUE = [f"true_{name}" for name in SUPERCLASSES]
_ALWAYS = "always-norm"
_COMPARED = ("concordance", "concordance.all_norms", "concordance.any_order")


def score(predictions: pd.DataFrame, records: pd.DataFrame, labels: pd.DataFrame) -> list[Row]:
    """Measure every arm.

    Args:
        predictions: ecg_id, a probability a superclass, arm, seed.
        records: of ``follow_up``.
        labels: columns of ``SUPERCLASSES``, indexed by ecg_id.

    Returns:
        Means over seeds.
    """
    known = records.join(labels[_CLASSES].add_prefix("true_"))
    tables = {
        (str(arm), int(seed)): part.set_index("ecg_id")[_CLASSES].join(known, how="inner")
        for (arm, seed), part in predictions.groupby(["arm", "seed"], sort=False)
    }
    by_person = {name: {key: of(table) for key, table in tables.items()} for name, of in CONCORDANCES.items()}
    rows = [_mean(arm, name, values) for name, found in by_person.items() for (arm, _), values in found.items()]
    for (arm, _), table in tables.items():
        rows += [_auc(arm, "macro_auc.later", _after(table)), *_paper(arm, table)]
    rows += _always_norm(next(iter(tables.values())))  # whoever answers without looking needs the records alone
    rows += [row for name in _COMPARED for row in _gains(name, by_person[name])]
    return over_seeds(rows) + [row for name in _COMPARED for row in _tests(name, by_person[name])]


def within_people(table: pd.DataFrame) -> pd.Series:
    """``concordance`` of every eligible person with both kinds of later record, by patient_id."""
    return _any_order(_after(table))


def _any_order(table: pd.DataFrame) -> pd.Series:
    return _on_norm(_kind(table, "abnormal").merge(_kind(table, "norm"), on="patient_id", suffixes=("", "_other")))


def against_all_norms(table: pd.DataFrame) -> pd.Series:
    """``concordance.all_norms`` of every eligible person, by patient_id."""
    norm = _kind(_after(table), "norm").drop(columns="patient_id")
    return _on_norm(_kind(_after(table), "abnormal").merge(norm, how="cross", suffixes=("", "_other")))


def on_the_disease(table: pd.DataFrame) -> pd.Series:
    """``concordance.disease`` of every eligible person with both kinds of later record, by patient_id.

    An abnormal record's superclasses count alike.
    """
    ill, well = (_kind(_after(table), kind) for kind in ("abnormal", "norm"))
    pairs = ill.merge(well, on="patient_id", suffixes=("", "_other"))
    own = pairs[_TRUE].to_numpy()  # (pairs, 5)
    wins = concordant(pairs[_CLASSES].to_numpy(), pairs[[f"{name}_other" for name in _CLASSES]].to_numpy())
    return _each_person(pairs, (wins * own).sum(axis=1) / own.sum(axis=1))


CONCORDANCES: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "concordance": within_people,
    "concordance.disease": on_the_disease,
    "concordance.all_norms": against_all_norms,
    "concordance.any_order": _any_order,
}


def _after(table: pd.DataFrame) -> pd.DataFrame:
    """Eligible people's records after their references."""
    return table[table["eligible"] & table["later"]]


def _kind(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    return table.loc[table[kind], ["patient_id", *_CLASSES, *_TRUE]]


def _on_norm(pairs: pd.DataFrame) -> pd.Series:
    """Mean of each person's pairs on 1 - P(NORM)."""
    return _each_person(pairs, concordant(1.0 - pairs["NORM"].to_numpy(), 1.0 - pairs["NORM_other"].to_numpy()))


def _each_person(pairs: pd.DataFrame, wins: np.ndarray) -> pd.Series:
    return pd.Series(wins, dtype=float).groupby(pairs["patient_id"].to_numpy()).mean()


def _gains(name: str, values: dict[tuple[str, int], pd.Series]) -> Iterator[Row]:
    for seed in sorted({seed for _, seed in values}):
        for control in CONTROLS:
            yield _mean(OWN, f"{name}_gain.{control}", values[OWN, seed] - values[control, seed])


def _tests(name: str, values: dict[tuple[str, int], pd.Series]) -> Iterator[Row]:
    """One test a control: each person's difference is the mean over seeds, so that seeds are no more people."""
    seeds = sorted({seed for _, seed in values})
    for control in CONTROLS:
        gains = pd.concat([values[OWN, seed] - values[control, seed] for seed in seeds], axis=1).mean(axis=1)
        p = sign_flip_p(gains.to_numpy())
        yield Row(OWN, f"{name}_p.{control}", p, p, p, len(gains), len(seeds))


def _paper(arm: str, table: pd.DataFrame) -> Iterator[Row]:
    cohort = table[table["cohort"] & table["single"]]
    for prefix, chosen in (("paper", cohort), ("paper.norm_first", cohort[cohort["norm_first"]])):
        if len(chosen) == 0:
            continue
        truth, said = (chosen[columns].to_numpy().argmax(axis=1) for columns in (_TRUE, _CLASSES))
        right = pd.Series(truth == said, index=chosen.index)
        patients = chosen["patient_id"]
        found = bootstrap_mean(right.to_numpy(), patients.to_numpy())
        yield Row(arm, f"{prefix}.ecg_accuracy", found.value, found.low, found.high, found.n, 1)
        yield _mean(arm, f"{prefix}.patient_accuracy", right.groupby(patients).all().astype(float))
        yield _auc(arm, f"{prefix}.macro_auc", chosen)
        yield _f1(arm, f"{prefix}.macro_f1", truth, said, patients.to_numpy())


def _always_norm(table: pd.DataFrame) -> Iterator[Row]:
    """Rows of the arm that answers NORM, and of who the cohorts are."""
    yield from _paper(_ALWAYS, table.assign(**{name: float(name == "NORM") for name in _CLASSES}))
    people = table[table["cohort"] & table["single"]]
    references = people["patient_id"].nunique()
    share = (people["norm"].sum() + references) / (len(people) + references)
    yield Row(_ALWAYS, "paper.norm_share", share, share, share, len(people) + references, 1)
    for name, chosen in (("eligible", table[table["eligible"]]), ("paper", people)):
        count = float(chosen["patient_id"].nunique())
        yield Row("cohort", f"people.{name}", count, count, count, len(chosen), 1)
    first = people[people["norm_first"]]
    count = float(first["patient_id"].nunique())
    yield Row("cohort", "people.paper_norm_first", count, count, count, len(first), 1)


def _mean(arm: str, metric: str, by_person: pd.Series) -> Row:
    found = bootstrap_mean(by_person.to_numpy(dtype=float), by_person.index.to_numpy())
    return Row(arm, metric, found.value, found.low, found.high, found.n, 1)


def _auc(arm: str, metric: str, table: pd.DataFrame) -> Row:
    found, _ = auc_intervals(table[_TRUE].to_numpy(), table[_CLASSES].to_numpy(), table["patient_id"].to_numpy())
    return Row(arm, metric, found.value, found.low, found.high, found.n, 1)


def _f1(arm: str, metric: str, truth: np.ndarray, said: np.ndarray, patients: np.ndarray) -> Row:
    """Macro F1 over the classes that occur, 95 % percentile interval over people."""
    unique, owner = np.unique(patients, return_inverse=True)
    rng = np.random.default_rng(0)
    draws = rng.multinomial(len(unique), np.full(len(unique), 1.0 / len(unique)), size=BOOTSTRAPS)[:, owner]  # (b, n)
    weights = np.vstack([np.ones((1, len(truth))), draws])  # (1 + b, n)
    classes = np.unique(truth)
    right = weights @ ((truth == said)[:, None] & (truth[:, None] == classes))  # (1 + b, classes)
    both = weights @ (truth[:, None] == classes) + weights @ (said[:, None] == classes)
    f1 = (2.0 * right / np.maximum(both, 1.0)).mean(axis=1)
    low, high = np.percentile(f1[1:], [2.5, 97.5])
    return Row(arm, metric, float(f1[0]), float(low), float(high), len(truth), 1)
