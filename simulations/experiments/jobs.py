"""Trainings of an experiment, each done once, and the predictions that are kept of them."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lavq_core.config import compose
from lavq_core.runs.artefact import MANIFEST
from lavq_core.runs.layout import RunFolder
from simulations.experiments.results_file import FOLDER


@dataclass(frozen=True)
class Job:
    """One training of one arm."""

    arm: str
    seed: int
    overrides: tuple[str, ...]  # of the experiment; an arm adds its own
    folder: Path


def federate(overrides: Sequence[str], sites: int = 0, absent: Collection[int] = ()) -> RunFolder:
    """Run a federation in this process, or find the finished one; what a broken-off one has left is removed first.

    Args:
        overrides: of the run, ``run.dir`` among them.
        sites: hospitals that the data are dealt out to; 0: as many as the configuration expects to take part.
        absent: numbers of hospitals that take no part.
    """
    from simulations.inprocess import run_in_process

    config = compose(overrides)
    run = RunFolder(Path(config.run.dir))
    if not (run.model / MANIFEST).is_file():
        shutil.rmtree(run.root, ignore_errors=True)
        run_in_process(list(overrides), sites or config.federation.sites, absent=set(absent))
    return run


def keep_predictions(predictions: pd.DataFrame, name: str, folder: Path = FOLDER, decimals: int | None = None) -> None:
    """Keep the predictions behind the results file ``name``, small and the same bytes each time."""
    kept = folder / "predictions" / f"{name}.csv.gz"
    kept.parent.mkdir(parents=True, exist_ok=True)
    form = None if decimals is None else f"%.{decimals}f"
    predictions.to_csv(kept, index=False, float_format=form, compression={"method": "gzip", "mtime": 0})
