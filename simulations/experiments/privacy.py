"""What patient-level differential privacy costs the detector: results file ``privacy``, together with the arms of
``privacy_public``.

The same federation of hospitals, with the same fixed features and steps: without noise (``off``), and private at
epsilon 8, 3 and 1 over the whole training, each hospital protecting its own patients. Settings were chosen on fold 9
(not charged); the test fold is scored once by each final detector. Noise comes from the operating system, so a seed
stands for another draw and not for a repeatable one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lavq_core.config import compose
from lavq_core.runs.events import read_events
from lavq_core.runs.layout import RunFolder
from lavq_core.runs.status import run_status
from simulations.experiments.federation import score
from simulations.experiments.jobs import Job
from simulations.experiments.pool import each_seed
from simulations.experiments.results_file import Row
from simulations.launch import quoted
from simulations.summary import byte_counts

ARMS = {
    "off": ("privacy=eps8", "privacy.epsilon=0"),
    "eps8": ("privacy=eps8",),
    "eps3": ("privacy=eps3",),
    "eps1": ("privacy=eps1",),
}


def run_privacy(overrides: Sequence[str], seeds: int, work: Path, workers: int) -> tuple[pd.DataFrame, list[Row]]:
    """Train every arm with every seed; finished trainings in ``work`` are not repeated.

    Returns:
        Predictions on the test fold, and rows: macro AUC pooled, per site and worst, ``epsilon`` and ``delta``, bytes.
    """
    jobs = [Job(arm, seed, tuple(overrides), work / arm / f"seed-{seed}") for seed in range(seeds) for arm in ARMS]
    done = each_seed(_train, [(job,) for job in jobs], workers, "trainings done")
    predictions = pd.concat(done, ignore_index=True)
    return predictions, score(predictions) + costs(jobs)


def _train(job: Job) -> pd.DataFrame:
    """Train one arm in a process of its own; its predictions on the test fold."""
    from simulations.inprocess import run_in_process

    complete = [*job.overrides, *ARMS[job.arm], f"run.seed={job.seed}"]
    complete.append(f"run.dir={quoted(job.folder)}")
    config, run = compose(complete), RunFolder(job.folder)
    if not run.model.is_dir():
        run_in_process(complete, config.federation.sites)
    table = pd.concat([pd.read_csv(site.predictions) for site in run.sites()], ignore_index=True)
    return table[table["fold"] == config.data.test_fold].assign(arm=job.arm, seed=job.seed)


def costs(jobs: Sequence[Job]) -> list[Row]:
    """Epsilon that the dearest site spent, and bytes of a round and site; intervals are the seeds' range."""
    rows = []
    for arm in dict.fromkeys(job.arm for job in jobs):
        runs = [RunFolder(job.folder) for job in jobs if job.arm == arm]
        spent = [max(site.epsilon for site in run_status(run).sites.values()) for run in runs]
        moved = [sum(map(float, byte_counts(read_events(run.events)).values())) for run in runs]
        for metric, values in (("epsilon", spent), ("bytes_per_round", moved)):
            if any(values):  # without privacy there is no epsilon, not one of 0
                rows.append(Row(arm, metric, float(np.mean(values)), min(values), max(values), 0, len(values)))
    return rows
