"""``lavq export``: a run's model in a folder for others."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write a run's model for others: safetensors, ONNX, model card, figures, hashes"
EXAMPLE = """\
  lavq export runs/demo --to my-model
  lavq detect --run my-model ecg.dcm --out predictions.csv"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument(
        "--to", required=True, metavar="DIR", help="a new folder; it is a run folder for other commands"
    )
    parser.add_argument("--no-onnx", action="store_true", help="without ONNX, which needs pip install 'lavq[export]'")


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    from rich.console import Console

    from lavq_core.export.onnx_detector import TOLERANCE
    from lavq_core.export.package import CARD, export_run
    from lavq_core.runs.layout import RunFolder

    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    run = RunFolder.open(args.run)
    with console.status("exporting"):
        made = export_run(run, Path(args.to), with_onnx=not args.no_onnx)
    if made.onnx_difference is not None:
        console.print(f"ONNX answers as the detector does: within {made.onnx_difference:.1g} (allowed {TOLERANCE:g})")
    if not made.evaluated:
        console.print("note: the run has no metrics.json, so the model card has no figures (`lavq report RUN`)")
    console.print(f"{len(made.files)} files, read {made.folder / CARD} first")
    return 0
