"""A run in Python: read ECGs for it, score them, make twins. See ``lavq_core`` for the five lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lavq_core.data.records import Ecg
from lavq_core.formats.options import ReadOptions
from lavq_core.formats.reading import read_usable
from lavq_core.models.calibration import Calibration
from lavq_core.models.stored import SharedModel, load_calibration, load_networks, load_shared_model
from lavq_core.runs.layout import RunFolder
from lavq_core.training.detector_training import predict
from lavq_core.twins.maker import TwinMaker
from lavq_core.twins.wish import Wish


def load_run(folder: str | Path, site: str = "") -> Run:
    """Load a finished run, or a folder that ``lavq export`` wrote.

    Args:
        folder: the run folder.
        site: whose networks make twins, when the run holds several.

    Raises:
        RunError: it is no run folder, has no final model, or a file was changed.
    """
    run = RunFolder.open(folder)
    model = load_shared_model(run)
    return Run(run, model, load_calibration(run, model, None), site)


@dataclass(frozen=True)
class Run:
    """A run's detector and networks, loaded once."""

    folder: RunFolder
    model: SharedModel
    calibration: Calibration | None  # None: probabilities are as the detector gives them
    site: str = ""

    @property
    def sampling_rate(self) -> int:
        """Hz of the models."""
        return self.model.config.data.sampling_rate

    def read(
        self,
        path: str | Path,
        *,
        sampling_rate: float | None = None,
        unit: str = "",
        leads: Sequence[str] = (),
        start: float = 0.0,
    ) -> Ecg:
        """Read an ECG file of any format for this run: resampled, 10 s, through the quality gate.

        Args:
            path: WFDB record, DICOM, MUSE XML, EDF, CSV or NPY.
            sampling_rate: Hz, of a CSV or NPY file.
            unit: mV, uV, nV or V, of a CSV or NPY file.
            leads: of a NPY file, or a CSV without names, in order.
            start: s, where the 10 s begin in a longer recording.

        Returns:
            The ECG, ``signal`` (12, T) mV; its ``notes`` say what was done to it and what the gate flags.

        Raises:
            DataError: it cannot be used; one line that says why.
        """
        options = ReadOptions(sampling_rate, unit, tuple(leads), start)
        return read_usable(path, self.sampling_rate, options, self.model.most_blank)

    def detect(self, ecg: Ecg) -> dict[str, float]:
        """Score an ECG of ``read`` or a twin: a probability per class, calibrated where the run is.

        Raises:
            DataError: the ECG has another rate.
        """
        found = predict(self.model.detector, self.model.signal(ecg).unsqueeze(0)).numpy()  # (1, 5)
        found = found if self.calibration is None else self.calibration.apply(found)
        return {name: float(p) for name, p in zip(self.model.classes, found[0], strict=True)}

    def twins(
        self,
        ecg: Ecg,
        disease: str,
        *,
        count: int = 1,
        strength: float = 1.0,
        age: float = math.nan,
        sex: str = "unknown",
        seed: int = 0,
        name: str = "",
    ) -> list[Ecg]:
        """Make digital twins of an ECG of ``read``.

        Args:
            ecg: of a healthy patient.
            disease: a superclass, or SCP statements joined with "+": "MI", "IMI+LAFB".
            count: different twins.
            strength: dose of the disease, 0 to 1.
            age: years, NaN where unknown.
            sex: "male", "female" or "unknown".
            seed: another seed, other twins.
            name: what the twins call the original; empty: a code, for the name of its file can be a patient's.

        Returns:
            The twins; their first note says SYNTHETIC, and ``write_ecg`` writes it into the file.

        Raises:
            ConfigError: a disease that a twin cannot show, or a number out of range.
            DataError: too few beats of one shape, a blank chest lead, or another rate.
            RunError: no network of this run can make twins.
        """
        made = self._maker.make(ecg, Wish(disease, count, strength, age, sex, seed=seed, name=name))
        return [made.record(i) for i in range(count)]

    @cached_property
    def _maker(self) -> TwinMaker:
        return TwinMaker(self.model, *load_networks(self.folder, self.site))
