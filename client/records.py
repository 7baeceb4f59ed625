"""One ECG that somebody hands in, in any format: read, checked, and brought to the models' form."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from lavq_core.data.records import Ecg
    from lavq_core.formats.options import ReadOptions
    from lavq_core.models.twins import Patients
    from lavq_core.settings import Config

FORMATS = "WFDB record (with or without suffix), DICOM, MUSE XML, EDF, CSV or NPY"


def configure_reading(parser: argparse.ArgumentParser, start: bool = True) -> None:
    """Add the options that say what an ECG file does not say of itself, and with ``start`` where to begin."""
    group = parser.add_argument_group("reading")
    group.add_argument("--sampling-rate", type=float, metavar="HZ", help="of a CSV or NPY file")
    group.add_argument("--unit", default="", metavar="UNIT", help="of a CSV or NPY file: mV, uV, nV or V")
    group.add_argument(
        "--leads", default="", metavar="I,II,...", help="of a NPY file, or a CSV without names, in order"
    )
    if start:
        help_ = "seconds into a longer recording, of which 10 s are used"
        group.add_argument("--start", type=float, default=0.0, metavar="S", help=help_)


def read_options(args: argparse.Namespace) -> ReadOptions:
    """Take what ``configure_reading`` added."""
    from lavq_core.formats.options import ReadOptions

    leads = tuple(args.leads.replace(",", " ").split())
    return ReadOptions(args.sampling_rate, args.unit, leads, getattr(args, "start", 0.0))


def read_checked(
    path: str | Path, sampling_rate: int, options: ReadOptions | None = None, most_blank: int = 0
) -> tuple[Ecg, torch.Tensor]:
    """Read an ECG file for models of a rate, and pass it through the quality gate; see ``read_usable``.

    Returns:
        The ECG, its ``notes`` saying what was done to it, and its 8 independent leads ``(8, T)`` float32 mV.

    Raises:
        DataError: it cannot be read, its rate or length is not sensible, or the gate rejects it; the message says why.
    """
    import torch

    from lavq_core.formats.options import ReadOptions
    from lavq_core.formats.reading import read_usable
    from lavq_core.signals.leads import to_independent

    ecg = read_usable(path, sampling_rate, options or ReadOptions(), most_blank)
    return ecg, torch.from_numpy(to_independent(ecg.signal).copy())


def read_patient(
    path: str | Path,
    age: float,
    sex: float,
    config: Config,
    change: Callable[[torch.Tensor], torch.Tensor] | None = None,
    options: ReadOptions | None = None,
) -> tuple[Ecg, Patients]:
    """Read one patient's ECG for twins: as it was read, and the patient in the beat frame.

    Args:
        path: ECG file.
        age: years, NaN where unknown.
        sex: 0 male, 1 female, NaN where unknown.
        config: of the run.
        change: of the signal ``(8, T)`` mV before beats are looked for.
        options: what the file does not say.

    Raises:
        DataError: see ``read_checked``; or too few beats of one shape. All chest leads are needed, for the networks
            that make twins were not trained with blank leads.
    """
    from lavq_core.models.twins import Patients

    ecg, signal = read_checked(path, config.data.sampling_rate, options)
    return ecg, Patients.of_one(ecg.name, signal if change is None else change(signal), age, sex, config)
