"""What follows a training: bootstraps of the AUC, the audit's shadow detectors, the report."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from sklearn.metrics import roc_auc_score

from lavq_core.config import compose
from lavq_core.metrics.auc import class_aucs, weighted_auc
from lavq_core.report import build_report
from lavq_core.runs.layout import RunFolder
from simulations import sample
from simulations.audit.cohort import Cohort
from simulations.audit.shadows.central import CentralRecipe
from simulations.audit.shadows.pool import cores
from simulations.audit.shadows.training import train_shadows
from simulations.benchmarks.harness import Pair, Way
from simulations.benchmarks.processes import fresh_process, lavq
from simulations.benchmarks.setting import Setting
from simulations.inprocess import run_in_process
from simulations.run_evaluation import evaluate_run
from simulations.summary import summarise, write_metrics

_RECORDS, _BOOTSTRAPS = 1178, 1000  # PTB-XL's test fold here, and what every interval takes
_SHADOWS = 6
_HEALTHY = sample.FOLDER / "records100" / "00000" / "00059_lr"


def bootstrap(setting: Setting) -> Pair:
    """1,000 bootstraps of the macro AUC of a test fold; the reference draws again and calls scikit-learn each time."""
    rng = np.random.default_rng(0)
    n = setting.many(_RECORDS, 60)
    labels = (rng.random((n, 5)) < 0.3).astype(float)
    scores = labels * 0.3 + rng.random((n, 5))
    draws = rng.multinomial(n, np.full(n, 1 / n), size=setting.many(_BOOTSTRAPS, 4))  # (b, n)
    few = draws[: setting.many(25, 2)]

    def ours() -> np.ndarray:
        return np.mean([weighted_auc(labels[:, c], scores[:, c], draws) for c in range(5)], axis=0)  # (b,)

    def sklearn_loop() -> np.ndarray:
        rows = [np.repeat(np.arange(n), counts) for counts in few]
        return np.array([roc_auc_score(labels[drawn], scores[drawn], average="macro") for drawn in rows])

    def same(mine: np.ndarray, other: np.ndarray) -> bool:
        return np.allclose(mine[: len(other)], other) and np.isfinite(class_aucs(labels, scores)).all()

    return Pair(Way(ours, len(draws)), Way(sklearn_loop, len(few)), same)


def shadows(setting: Setting) -> Pair:
    """The audit's shadow detectors side by side, a core each; the reference trains one after another."""
    config = setting.config(
        "detector.kind=resnet", f"audit.shadows={_SHADOWS}", f"federation.rounds={setting.many(2, 1)}"
    )
    recipe = CentralRecipe.of_model(config, torch.device("cpu"))
    cohort, quiet = Cohort.of_run(setting.sample, config), Console(quiet=True)

    def train(workers: int) -> np.ndarray:
        return train_shadows(cohort, recipe, setting.fresh("audit"), workers, quiet).answers["logits"]

    def same(mine: np.ndarray, other: np.ndarray) -> bool:
        return np.allclose(mine, other, atol=1e-4)

    return Pair(Way(lambda: train(min(2, cores())), _SHADOWS), Way(lambda: train(1), _SHADOWS), same, time.perf_counter)


def seconds_of_a_report(setting: Setting, rounds: int) -> list[float]:
    """Build the report of a small run of four hospitals, with its pictures, again and again: s each."""
    run = finished_run(setting)
    build_report(run)
    return [_timed(run) for _ in range(rounds)]


def finished_run(setting: Setting) -> RunFolder:
    """Train a run of one round and evaluate it."""
    asked, run = _trained(setting)
    write_metrics(run, summarise(run) | evaluate_run(run, compose(asked), setting.sample))
    return run


def seconds_of_a_personal_detector(setting: Setting, rounds: int, *own: str) -> list[float]:
    """Call ``lavq personalize`` in fresh processes, on models of the preset ``ptbxl``: s each, start included."""
    one = ("federation.sites=1", "federation.min_sites=1", "partition.scheme=iid")
    _, run = _trained(setting, "preset=ptbxl", *one, *own)
    command = lavq("personalize", str(_HEALTHY), "--run", str(run.root), "--out", str(setting.fresh("personal")))
    return [fresh_process(command).seconds for _ in range(rounds)]


def _trained(setting: Setting, *own: str) -> tuple[list[str], RunFolder]:
    place: Path = setting.fresh("run")
    few = ("federation.rounds=1", "separator_training.after=0", "twins.after=0", "separator_training.steps=1")
    asked = setting.overrides(*few, "detector_training.epochs=1", "audit.enabled=false", f"run.dir='{place}'", *own)
    run_in_process(asked, compose(asked).federation.sites)
    return asked, RunFolder(place)


def _timed(run: RunFolder) -> float:
    began = time.process_time()
    build_report(run)
    return time.process_time() - began
