"""Is a twin the disease that was requested, no other, and not a caricature? Figures from the judges' opinions.

Negatives are the unedited originals of the same requests, so that age, hospital and heart rate tell nothing, and every
figure stands beside the real records' own: a twin should score as they do, neither less nor more.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.metrics.auc import Interval
from lavq_core.metrics.twins import unrequested_classes
from simulations.judges.bench import Bench
from simulations.judges.intervals import auc, interval, kolmogorov_smirnov, mean, patient_weights
from simulations.judges.jury import CRITERION, JUDGES, Opinion

Figure = tuple[str, Interval]
"""A metric's name and value."""

STATEMENTS = 10  # commonest ones, which get figures of their own


def disease_figures(twins: Opinion, bench: Bench) -> Iterator[Figure]:
    """Figures of an arm.

    Yields, for each abnormal superclass that was requested and each judge:
        ``judge_auc.CLASS.JUDGE``: twins above originals; ``judge_auc_gap...``: less the real records' AUC.
        ``score_gap...`` and ``score_ks...``: scores of twins and of real records, difference of means and largest
        distance of distribution functions. ``average_treatment_effect...``: mean score of twins less originals.
        ``unrequested...``: share of the other classes seen in twins of the class; ``unrequested_excess...``: less the
        share seen in real records.
    and for each of the commonest statements ``statement_auc.STATEMENT.JUDGE`` and ``statement_auc_gap...``, where the
    textbook's criterion is a third judge.
    """
    plan, owners, sources = bench.plan, bench.patients(bench.plan.patient), bench.patients(bench.plan.real)
    for c in _requested(bench):
        rows = plan.labels[:, c] == 1
        weights = patient_weights(owners[rows], sources[rows], seed=bench.seed)
        for judge in JUDGES:
            name = f"{SUPERCLASSES[c]}.{judge}"
            made, before, real = (each.classes[judge][rows] for each in (twins, bench.original, bench.real))
            yield from _aucs("judge_auc", name, (made[:, c], before[:, c], real[:, c]), weights)
            yield from _gaps(name, (made[:, c], before[:, c], real[:, c]), weights)
            seen, usual = (
                mean(unrequested_classes(each, plan.labels[rows], bench.thresholds[judge]), w)
                for each, w in zip((made, real), weights, strict=True)
            )
            yield f"unrequested.{name}", interval(seen, len(made))
            yield f"unrequested_excess.{name}", interval(seen - usual, len(made))
    for statement in plan.commonest(STATEMENTS):
        rows = plan.has(statement)
        weights = patient_weights(owners[rows], sources[rows], seed=bench.seed)
        for judge in _knowing(statement, bench):
            scores = tuple(each.statements[judge][statement][rows] for each in (twins, bench.original, bench.real))
            yield from _aucs("statement_auc", f"{statement}.{judge}", scores, weights)


def real_disease_figures(bench: Bench) -> Iterator[Figure]:
    """The same figures of the real records behind the requests, as far as they are not differences from themselves."""
    for name, figure in disease_figures(bench.real, bench):
        if name.split(".")[0] in ("judge_auc", "statement_auc", "unrequested"):
            yield name, figure


def _requested(bench: Bench) -> list[int]:
    return [c for c in range(1, len(SUPERCLASSES)) if bench.plan.labels[:, c].any()]


def _knowing(statement: str, bench: Bench) -> list[str]:
    """Judges who know a statement; one too rare among their records is left out."""
    return [judge for judge in (*JUDGES, CRITERION) if statement in bench.original.statements[judge]]


def _aucs(metric: str, name: str, scores: tuple[np.ndarray, ...], weights: list[np.ndarray]) -> Iterator[Figure]:
    """AUC over the originals, and how far it is from real records'; scores of twins, originals and reals ``(n,)``."""
    (made, before, real), (owner, source) = scores, weights
    above = auc(made, before, owner, owner)
    yield f"{metric}.{name}", interval(above, len(made))
    yield f"{metric}_gap.{name}", interval(above - auc(real, before, source, owner), len(made))


def _gaps(name: str, scores: tuple[np.ndarray, ...], weights: list[np.ndarray]) -> Iterator[Figure]:
    """How scores of twins differ from those of real records, and from those of their originals."""
    (made, before, real), (owner, source), n = scores, weights, len(scores[0])
    after = mean(made, owner)
    yield f"score_gap.{name}", interval(after - mean(real, source), n)
    yield f"score_ks.{name}", interval(kolmogorov_smirnov(made, real, owner, source), n, centred=True)
    yield f"average_treatment_effect.{name}", interval(after - mean(before, owner), n)
