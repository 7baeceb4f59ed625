"""All figures of one arm and one seed, as rows of a results file.

    bench = set_up(database, beats, seed)
    twins = TwinSet.measured(signal, envelope, rate)  # one answer to every request of bench.plan
    rows = evaluate("prior", twins, bench) + evaluate_real(bench, (1, 2, 3, 4, 5))

Twins come as signals: what made them is none of the judges' business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from simulations.experiments.results_file import Row
from simulations.judges.bench import Bench, TwinSet
from simulations.judges.disease import Figure, disease_figures, real_disease_figures
from simulations.judges.likeness import patient_figures, real_patient_figures, realism_figures
from simulations.judges.plan import HELD_OUT, other_reals
from simulations.judges.probe import EPOCHS

REAL = "real"
"""The arm of real records: what a twin can hope for."""


def evaluate(arm: str, twins: TwinSet, bench: Bench, probe_epochs: int = EPOCHS) -> list[Row]:
    """Hold one arm's twins against real records.

    PTB-XL's 1,250 requests take about a minute on one core, most of it the probe's.

    Args:
        arm: its name in the results.
        twins: one answer to every request, in the plan's order.
        bench: plan and judges; none of the judges has seen the generator, nor it them.
        probe_epochs: of the realism probe; 0 leaves the probe out.

    Returns:
        Rows of one seed, named as in ``disease_figures``, ``patient_figures`` and ``realism_figures``.

    Raises:
        ValueError: not one twin a request.
    """
    if len(twins.signal) != len(bench.plan):
        raise ValueError(f"{len(twins.signal)} twins do not answer {len(bench.plan)} requests")
    said = bench.jury.judge(twins.signal, twins.median)
    figures = [
        *disease_figures(said, bench),
        *patient_figures(twins, bench),
        *realism_figures(twins.signal, bench.patients(bench.plan.patient), bench, probe_epochs),
    ]
    return _rows(arm, figures)


def evaluate_real(
    bench: Bench, elsewhere: Sequence[int], held_out: Sequence[int] = HELD_OUT, probe_epochs: int = EPOCHS
) -> list[Row]:
    """The rows of real records, arm ``real``: the figures that twins are to reach.

    Judges score the real records behind the requests. Realism is that of other patients' real records of the same
    classes, from other folds: what probe and distances say where nothing is synthetic.

    Args:
        bench: plan and judges.
        elsewhere: folds of those other patients; neither held out nor the judges'.
        held_out: folds of the plan.
        probe_epochs: of the realism probe; 0 leaves the probe out.

    Raises:
        DataError: ``elsewhere`` holds too few records.
    """
    other = other_reals(bench.database, bench.beats, bench.plan, elsewhere, bench.seed)
    figures = [
        *real_disease_figures(bench),
        *real_patient_figures(bench, held_out),
        *realism_figures(bench.signals(other), bench.patients(other), bench, probe_epochs),
    ]
    return _rows(REAL, figures)


def _rows(arm: str, figures: Iterable[Figure]) -> list[Row]:
    return [Row(arm, metric, found.value, found.low, found.high, found.n, seeds=1) for metric, found in figures]
