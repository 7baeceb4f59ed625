"""One calibration for a simulated run, from all hospitals' validation folds together.

A real server cannot make it, since no prediction leaves a hospital: there, each uses its own (``client.evaluation``).
"""

from __future__ import annotations

import pandas as pd

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.models.calibration import Calibration, detector_digest
from lavq_core.models.stored import load_shared_model
from lavq_core.runs.layout import RunFolder
from lavq_core.settings import Config


def calibrate(run: RunFolder, config: Config) -> None:
    """Write ``RUN/calibration.json``, which ``lavq detect`` uses; nothing where no site has a validation fold."""
    files = [site.predictions for site in run.sites() if site.predictions.is_file()]
    if not files:
        return
    table = pd.concat([pd.read_csv(file) for file in files], ignore_index=True)
    chosen = table[table["fold"] == config.data.validation_fold]
    if chosen.empty:
        return
    Calibration.fit(
        chosen[[f"true_{name}" for name in SUPERCLASSES]].to_numpy(dtype=float),
        chosen[list(SUPERCLASSES)].to_numpy(dtype=float),
        config.calibration.sensitivity,
        config.data.validation_fold,
        f"all sites of the simulation ({len(files)})",
        detector_digest(load_shared_model(run).detector.state_dict()),
    ).save(run.calibration)
