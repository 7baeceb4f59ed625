"""``lavq status``: where a run stands."""

from __future__ import annotations

import argparse

HELP = "show rounds, sites, bytes, seconds and failures of a run, also of one that is going on"
EXAMPLE = """\
  lavq status runs/first"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", help="run folder")


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    from rich.console import Console

    from lavq_core.config import load_config
    from lavq_core.runs.layout import RunFolder
    from lavq_core.runs.status import run_status
    from server.status_view import budget, heading, site_table

    run = RunFolder.open(args.run)
    config = load_config(run.config)
    status = run_status(run)
    console = Console()
    for line in heading(status, run.root.name, config.federation.rounds, str(args.run)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if status.sites:
        console.print(site_table(status))
    console.print(budget(config, status), markup=False, highlight=False, soft_wrap=True)
    return 0
