"""Levels of privacy that the experiments compare, and what their runs have cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lavq_core.runs.events import read_events
from lavq_core.runs.layout import RunFolder
from lavq_core.runs.status import run_status
from simulations.experiments.jobs import Job
from simulations.experiments.results_file import Row
from simulations.wire import byte_counts

ARMS = {
    "off": ("privacy=eps8", "privacy.epsilon=0"),
    "eps8": ("privacy=eps8",),
    "eps3": ("privacy=eps3",),
    "eps1": ("privacy=eps1",),
}


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
