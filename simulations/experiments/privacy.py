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

import pandas as pd

from lavq_core.config import compose
from simulations.experiments.jobs import Job, federate, keep_predictions
from simulations.experiments.pool import each_seed
from simulations.experiments.privacy_arms import ARMS, costs
from simulations.experiments.privacy_public import run_public
from simulations.experiments.results_file import Row
from simulations.experiments.scores import score
from simulations.launch import quoted


def run_privacy(overrides: Sequence[str], seeds: int, work: Path, workers: int) -> list[Row]:
    """Train every arm with every seed; finished trainings in ``work`` are not repeated.

    Returns:
        Macro AUC pooled, per site and worst, ``epsilon``, bytes; and what ``run_public`` gives. Predictions on the test
        fold are kept beside the results files.
    """
    jobs = [Job(arm, seed, tuple(overrides), work / arm / f"seed-{seed}") for seed in range(seeds) for arm in ARMS]
    done = each_seed(_train, [(job,) for job in jobs], workers, "trainings done")
    everywhere = pd.concat(done, ignore_index=True)
    others, rows = run_public(overrides, seeds, work, workers)
    kept = pd.concat([everywhere, others], ignore_index=True)
    keep_predictions(kept.drop(columns="fold"), "privacy", decimals=3)
    return [*score(everywhere), *costs(jobs), *rows]


def _train(job: Job) -> pd.DataFrame:
    """Train one arm in a process of its own; its predictions on the test fold."""
    complete = [*job.overrides, *ARMS[job.arm], f"run.seed={job.seed}"]
    complete.append(f"run.dir={quoted(job.folder)}")
    config, run = compose(complete), federate(complete)
    table = pd.concat([pd.read_csv(site.predictions) for site in run.sites()], ignore_index=True)
    return table[table["fold"] == config.data.test_fold].assign(arm=job.arm, seed=job.seed)
