"""One calibration for a simulated run, from all hospitals' validation folds together.

A real server cannot make it, since no prediction leaves a hospital: there, each uses its own (``client.evaluation``).
"""

from __future__ import annotations

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.models.calibration import Calibration, detector_digest
from lavq_core.models.stored import load_shared_model
from lavq_core.runs.layout import RunFolder
from lavq_core.settings import Config
from simulations.summary import stored_predictions


def calibrate(run: RunFolder, config: Config) -> None:
    """Write ``RUN/calibration.json``, which ``lavq detect`` uses; nothing where no site has a validation fold."""
    table = stored_predictions(run)
    if table.empty:
        return
    chosen = table[table["fold"] == config.data.validation_fold]
    if chosen.empty:
        return
    Calibration.fit(
        chosen[[f"true_{name}" for name in SUPERCLASSES]].to_numpy(dtype=float),
        chosen[list(SUPERCLASSES)].to_numpy(dtype=float),
        config.calibration.sensitivity,
        config.data.validation_fold,
        f"the {table['site'].nunique()} hospitals of the simulation",
        detector_digest(load_shared_model(run).detector.state_dict()),
    ).save(run.calibration)
