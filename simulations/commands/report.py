"""``lavq report``: figures and report of a run that has ended."""

from __future__ import annotations

import argparse

HELP = "write metrics.json and report.html of a simulated run, for example after flwr run"
EXAMPLE = """\
  lavq report runs/first"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", help="run folder")


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    from rich.console import Console

    from lavq_core.runs.layout import RunFolder
    from simulations.finish import finish_run

    report = finish_run(RunFolder.open(args.run))
    Console().print(f"report: {report}", soft_wrap=True, highlight=False)
    return 0
