"""Options of commands that read one ECG: what its file does not say of itself."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lavq_core.formats.options import ReadOptions

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


def configure_layout(parser: argparse.ArgumentParser) -> None:
    """Add the option that says how a picture arranges the leads; ``draw_ecg`` refuses what it does not know."""
    parser.add_argument("--layout", default="3x4+II", help="of the picture: 3x4+II, 3x4, 6x2 or 12x1 (default 3x4+II)")


def read_options(args: argparse.Namespace) -> ReadOptions:
    """Take what ``configure_reading`` added."""
    from lavq_core.formats.options import ReadOptions

    leads = tuple(args.leads.replace(",", " ").split())
    return ReadOptions(args.sampling_rate, args.unit, leads, getattr(args, "start", 0.0))
