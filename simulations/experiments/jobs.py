"""Trainings of an experiment, and the predictions that are kept of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from simulations.experiments.results_file import FOLDER


@dataclass(frozen=True)
class Job:
    """One training of one arm."""

    arm: str
    seed: int
    overrides: tuple[str, ...]  # of the experiment; an arm adds its own
    folder: Path


def keep_predictions(predictions: pd.DataFrame, name: str, folder: Path = FOLDER, decimals: int | None = None) -> None:
    """Keep the predictions behind the results file ``name``, small and the same bytes each time."""
    kept = folder / "predictions" / f"{name}.csv.gz"
    kept.parent.mkdir(parents=True, exist_ok=True)
    form = None if decimals is None else f"%.{decimals}f"
    predictions.to_csv(kept, index=False, float_format=form, compression={"method": "gzip", "mtime": 0})
