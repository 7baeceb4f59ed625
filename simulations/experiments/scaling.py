"""How large a detector should be: depth, width and kernel against macro AUC and cost. Results file ``scaling``.

After Lee, Jo and Kwon, *Optimizing Neural Network Scale for ECG Classification* (2023), who found shallow, wide
networks with small kernels best. Every combination of the sizes asked for is trained as ``population`` trains its
detector. Sizes are to be chosen by the **validation** fold; the test fold stands beside it to show how far such a
choice holds, and decides nothing.

=============================  =========================================================================================
``macro_auc.validation``       arms ``d4-w32-k7`` (4 blocks, 32 channels, kernels of 7 samples), and ``depth-4``,
``macro_auc.test``             ``width-32``, ``kernel-7``: the mean of all arms of that size
``behind.validation``          how far an arm lies behind the one that is best on the validation fold, in the same draws
``behind.test``                of patients: an interval that reaches 0 says that the cheaper one may be as good
``parameters``, ``bytes``      of the weights, as they travel
``macs``                       multiply-accumulates for a 10 s record (torch's own counter)
``seconds``                    for a record of a batch on one core, median of five; to train on one: ``train_seconds``
=============================  =========================================================================================
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from lavq_core.config import compose
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.models.detector import build_detector
from lavq_core.settings import Config
from lavq_core.signals.leads import INDEPENDENT_LEADS
from lavq_core.signals.quality import DURATION
from lavq_core.training.detector_training import LabelledEcgs, make_optimiser, predict, take_steps
from simulations.experiments.jobs import Job, keep_predictions
from simulations.experiments.pool import each_seed
from simulations.experiments.population import train_centralised
from simulations.experiments.results_file import Row
from simulations.experiments.scores import mean_over_seeds, row_of
from simulations.experiments.seeds import over_seeds

SIZES = {"depth": "blocks", "width": "width", "kernel": "kernel"}
"""What is varied, and the setting of ``detector`` that it is."""

_TIMED, _REPEATS = 32, 5  # records of a timed batch, and how often it is timed


def run_scaling(
    overrides: Sequence[str],
    seeds: int,
    work: Path,
    workers: int,
    depths: Sequence[int],
    widths: Sequence[int],
    kernels: Sequence[int],
) -> list[Row]:
    """Train every size with every seed; finished trainings in ``work`` are not repeated.

    Args:
        overrides, seeds, work, workers: as in every experiment.
        depths, widths, kernels: residual blocks, channels of the first, and samples, each to be combined with all.

    Returns:
        Rows of this module's table. Predictions on both folds are kept beside the results files.
    """
    sizes = {f"d{d}-w{w}-k{k}": (d, w, k) for d, w, k in product(depths, widths, kernels)}
    settings = {arm: (*overrides, *sized(*size)) for arm, size in sizes.items()}
    configs = {arm: compose(given) for arm, given in settings.items()}  # a size that no run can have shows here
    jobs = [Job(arm, seed, settings[arm], work / arm / f"seed-{seed}") for seed in range(seeds) for arm in sizes]
    predictions = pd.concat(each_seed(train_centralised, [(job,) for job in jobs], workers, "trainings done"))
    keep_predictions(predictions[["ecg_id", "fold", *SUPERCLASSES, "arm", "seed"]], "scaling", decimals=3)
    with Console(stderr=True).status("measuring cost and intervals"):
        data = configs[next(iter(sizes))].data
        rows = score(predictions, {"validation": data.validation_fold, "test": data.test_fold}, sizes)
        return rows + [row for arm, config in configs.items() for row in costs(arm, config)]


def sized(depth: int, width: int, kernel: int) -> list[str]:
    """Settings of a detector of one size."""
    return [f"detector.{SIZES[name]}={value}" for name, value in zip(SIZES, (depth, width, kernel), strict=True)]


def score(predictions: pd.DataFrame, folds: dict[str, int], sizes: dict[str, tuple[int, int, int]]) -> list[Row]:
    """Macro AUC of every arm and of every depth, width and kernel, and how far an arm lies behind the best.

    Args:
        predictions: of all arms and seeds, on both folds: arm, seed, ecg_id, patient_id, fold, probabilities and true
            labels, as ``alone.predictions_at`` gives them.
        folds: numbers of the folds ``validation``, by which the best is found, and ``test``.
        sizes: depth, width and kernel of each arm.
    """
    rows, best = [], ""
    for name, number in folds.items():
        found: dict[int, dict[str, np.ndarray]] = {}  # by seed and arm (1 + b,): macro AUC, and in draws of patients
        parts = predictions[predictions["fold"] == number].groupby(["seed", "arm"], sort=False)
        for (seed, arm), part in parts:
            value, drawn, n = mean_over_seeds(part)
            found.setdefault(int(seed), {})[str(arm)] = np.concatenate([[value], drawn])
        if name == "validation":
            best = max(sizes, key=lambda arm: np.mean([curves[arm][0] for curves in found.values()]))
        for curves in found.values():
            scored = [*curves.items(), *_by_size(curves, sizes)]
            rows += [row_of(which, f"macro_auc.{name}", curve[0], curve[1:], n) for which, curve in scored]
            behind = {arm: curves[best] - curve for arm, curve in curves.items()}
            rows += [row_of(arm, f"behind.{name}", curve[0], curve[1:], n) for arm, curve in behind.items()]
    return over_seeds(rows)


def _by_size(curves: dict[str, np.ndarray], sizes: dict[str, tuple[int, int, int]]) -> Iterator[tuple[str, np.ndarray]]:
    """Means over all arms of a depth, of a width and of a kernel."""
    for place, name in enumerate(SIZES):
        for value in sorted({size[place] for size in sizes.values()}):
            same = [curve for arm, curve in curves.items() if sizes[arm][place] == value]
            yield f"{name}-{value}", np.mean(same, axis=0)


def costs(arm: str, config: Config) -> list[Row]:
    """What a detector of this size costs, measured on an untrained one."""
    torch.set_num_threads(1)
    rate = config.data.sampling_rate
    model = build_detector(config.detector, rate, seed=0)
    weights = [weight.numel() for weight in model.parameters()]
    x = torch.randn(_TIMED, len(INDEPENDENT_LEADS), round(DURATION * rate), generator=torch.Generator().manual_seed(0))
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x[:1])
    training = replace(config.detector_training, batch=_TIMED)
    data = LabelledEcgs(x, torch.zeros(_TIMED, len(SUPERCLASSES)), torch.ones(_TIMED))
    optimiser = make_optimiser(model, training)
    measured = {
        "parameters": [float(sum(weights))],
        "bytes": [float(4 * sum(weights))],  # float32
        "macs": [counter.get_total_flops() / 2.0],
        "seconds": _seconds(lambda: predict(model, x)),
        "train_seconds": _seconds(
            lambda: take_steps(model, data, [torch.arange(_TIMED)], optimiser, training, rate, seed=0)
        ),
    }
    return [Row(arm, name, median(v), min(v), max(v), 0, 1) for name, v in measured.items()]


def _seconds(call: Callable[[], object]) -> list[float]:
    """Seconds a record of a batch, of each repeat; a first call is not timed."""
    call()
    found = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        call()
        found.append((time.perf_counter() - began) / _TIMED)
    return found
