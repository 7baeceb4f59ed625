"""``lavq convert``: one ECG file as WFDB, DICOM or a picture, without anything about its patient."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from client.reading import FORMATS, configure_layout, configure_reading, read_options

if TYPE_CHECKING:
    from lavq_core.data.records import Ecg

HELP = "write an ECG file as WFDB, DICOM or a picture, without the patient's name, dates and identifiers"
EXAMPLE = """\
  lavq convert muse.xml --out records/00001.hea
  lavq convert ecg.csv --sampling-rate 500 --unit uV --out ecg.dcm
  lavq convert ecg.dcm --out ecg.svg --layout 6x2

a picture shows 10 s on calibrated paper: 25 mm/s, 10 mm/mV"""
_DRAWN = 10.0  # s


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("ecg", metavar="ECG", help=FORMATS)
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="NAME.hea, NAME.dcm, or NAME.svg or .png for a picture"
    )
    configure_layout(parser)
    configure_reading(parser, start=False)


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    from rich.console import Console

    from lavq_core.formats.reading import read_ecg
    from lavq_core.formats.writing import write_ecg
    from lavq_core.plots.files import PICTURES
    from lavq_core.signals.quality import Verdict, assess

    ecg = read_ecg(args.ecg, read_options(args))
    draws = Path(args.out).suffix in PICTURES
    path = _draw(ecg, Path(args.out), args.layout) if draws else write_ecg(args.out, ecg)
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    for note in ecg.notes:
        console.print(f"note: {note}")
    quality = assess(ecg.signal[None], ecg.sampling_rate, ecg.present[None])[0]
    if quality.reasons:
        refused = "; detections and twins are refused" if quality.verdict is Verdict.REJECT else ""
        console.print(f"note: as it was recorded: {'; '.join(quality.reasons)}{refused}")
    seconds = ecg.signal.shape[1] / ecg.sampling_rate
    console.print(f"12 leads, {ecg.sampling_rate:g} Hz, {seconds:g} s; nothing about the patient; written to {path}")
    return 0


def _draw(ecg: Ecg, path: Path, layout: str) -> Path:
    """Draw the first 10 s; the picture calls the ECG by its code."""
    from lavq_core.plots import draw_ecg, save_figure
    from lavq_core.twins.made import code_of

    signal = ecg.signal[:, : round(_DRAWN * ecg.sampling_rate)]
    return save_figure(draw_ecg(signal, ecg.sampling_rate, layout=layout, title=code_of(ecg)), path)
