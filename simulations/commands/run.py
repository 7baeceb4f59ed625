"""``lavq run``: a federation inside this process."""

from __future__ import annotations

import argparse
from pathlib import Path

from simulations.commands.arguments import add_settings

HELP = "train a simulated federation inside this process, then judge, audit and report"
EXAMPLE = """\
  lavq run
  lavq run --data /path/to/ptb-xl preset=ptbxl federation.rounds=12 partition.scheme=dirichlet:0.1

settings (KEY=VALUE) are listed with their meaning in lavq_core/settings.py; presets: sample, ptbxl, detector, paper"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_settings(parser)
    parser.add_argument("--out", metavar="RUN", help="run folder (default: runs/run-TIME)")


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    from rich.console import Console

    from lavq_core.runs.layout import RunFolder
    from simulations.finish import finish_run
    from simulations.inprocess import run_in_process
    from simulations.launch import prepare
    from simulations.progress import following

    overrides, config = prepare(args.overrides, args.data, args.out, "run")
    run = RunFolder(Path(config.run.dir))
    with following(run):
        run_in_process(overrides, config.federation.sites)
    report = finish_run(run)
    Console().print(f"report: {report}", soft_wrap=True, highlight=False)
    return 0
