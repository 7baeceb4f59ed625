"""``lavq convert``: one ECG file as WFDB or DICOM, without anything about its patient."""

from __future__ import annotations

import argparse

from client.reading import FORMATS, configure_reading, read_options

HELP = "write an ECG file as WFDB or DICOM, without the patient's name, dates and identifiers"
EXAMPLE = """\
  lavq convert muse.xml --out records/00001.hea
  lavq convert ecg.csv --sampling-rate 500 --unit uV --out ecg.dcm"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("ecg", metavar="ECG", help=FORMATS)
    parser.add_argument("--out", required=True, metavar="FILE", help="NAME.hea for WFDB, NAME.dcm for DICOM")
    configure_reading(parser, start=False)


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    from rich.console import Console

    from lavq_core.formats.reading import read_ecg
    from lavq_core.formats.writing import write_ecg
    from lavq_core.signals.quality import Verdict, assess

    ecg = read_ecg(args.ecg, read_options(args))
    path = write_ecg(args.out, ecg)
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
