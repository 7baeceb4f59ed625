"""What leaks at which epsilon, on every surface: results file ``audit``.

The same federation of hospitals as it is without privacy (``off``: the preset's own detector, with separator and twins
where the preset has them) and at epsilon 8, 3 and 1 per patient, each trained and audited with several seeds: shadows,
replicas, lower bounds, tests of the noise. The private presets let neither separator nor codebook leave, so these
surfaces are empty there. Beside them stands the auditor's test bench (``simulations.audit.bench.suite``): cases with
something planted, which it has to convict, and sound ones, which it has to acquit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from lavq_core.config import compose
from lavq_core.data.database import Database
from simulations.audit.bench.suite import run_bench
from simulations.audit.finding import Metrics
from simulations.audit.run import audit_run
from simulations.audit.verdict import LEAK
from simulations.experiments.jobs import Job, federate
from simulations.experiments.pool import each_seed
from simulations.experiments.results_file import Row
from simulations.experiments.seeds import over_seeds
from simulations.launch import quoted

RATES = ("auc", "tpr_at_1pct_fpr", "tpr_at_01pct_fpr")
ARMS = {"off": ("privacy=off",), **{arm: (f"privacy={arm}",) for arm in ("eps8", "eps3", "eps1")}}


def run_audit(overrides: Sequence[str], seeds: int, work: Path, workers: int, bench: bool = True) -> list[Row]:
    """Train and audit every arm with every seed, and play the test bench; what ``work`` has is not done again.

    Returns:
        Rows by arm: rates and AUC of every attack, on the run and its replicas; links of twins; the control; lower
        bounds of epsilon; ``convicted``, the share of runs whose verdict was a leak. And the bench's rows.
    """
    jobs = [Job(arm, seed, tuple(overrides), work / arm / f"seed-{seed}") for seed in range(seeds) for arm in ARMS]
    done = each_seed(_audit, [(job,) for job in jobs], workers, "runs trained and audited")
    rows = [row for job, metrics in zip(jobs, done, strict=True) for row in _rows(job.arm, metrics)]
    return over_seeds(rows) + (run_bench(None, workers) if bench else [])


def _audit(job: Job) -> Metrics:
    """Train one arm in a process of its own, and audit it there."""
    torch.set_num_threads(1)
    complete = [*ARMS[job.arm], *job.overrides, f"run.seed={job.seed}", f"run.dir={quoted(job.folder)}"]
    config, run = compose(complete), federate(complete)
    database = Database.configured(config.data, progress=False)
    return audit_run(run, config, database, workers=1, console=Console(quiet=True))


def _rows(arm: str, metrics: Metrics) -> list[Row]:
    """Pick the figures that are compared between arms; n is the people behind each."""
    people = int(metrics["audit.members"]) + int(metrics["audit.non_members"])
    rows = []
    for key, value in metrics.items():
        name = key.removeprefix("audit.")
        last = name.rsplit(".", 1)[-1]
        if isinstance(value, str) or not (last in RATES or last.endswith("_top1") or "epsilon_lower_bound" in name):
            continue
        low, high = (float(metrics.get(f"{key}.{end}", value)) for end in ("low", "high"))
        rows.append(Row(arm, name, float(value), low, high, int(metrics.get(f"{key}.n", people)), 1))
    convicted = float(metrics["audit.verdict"] == LEAK)
    return [*rows, Row(arm, "convicted", convicted, convicted, convicted, people, 1)]
