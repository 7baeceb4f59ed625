"""What the auditor's tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console

from lavq_core.config import compose
from lavq_core.data.database import Database
from simulations.audit.cohort import Cohort

SAMPLE = Path(__file__).resolve().parents[2] / "simulations" / "sample"
QUIET = Console(quiet=True)


def small_cohort(database: Database, patients: int, members: int) -> Cohort:
    """Some patients of the sample, drawn at random, the first of a second draw being members."""
    everybody = Cohort.of_run(database, compose())
    generator = np.random.default_rng(0)
    chosen = np.sort(generator.permutation(len(everybody))[:patients])
    keep = np.isin(everybody.owner, chosen)
    member = np.zeros(patients, dtype=bool)
    member[generator.permutation(patients)[:members]] = True
    owner = np.searchsorted(chosen, everybody.owner[keep])
    return Cohort(
        everybody.signals[keep], everybody.y[keep], owner, everybody.patients[chosen], member, everybody.positions[keep]
    )
