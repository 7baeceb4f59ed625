"""``lavq status``: where a run stands."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from lavq_core.runs.status import RunStatus

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

    run = RunFolder.open(args.run)
    config = load_config(run.config)
    status = run_status(run)
    console = Console()
    for line in _heading(status, run.root.name, config.federation.rounds, str(args.run)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if status.sites:
        console.print(_table(status))
    if config.privacy.epsilon == 0:
        budget = "none: this run trains without differential privacy and claims none"
    else:
        spent = "; ".join(f"{name} {site.epsilon:.3f}" for name, site in sorted(status.sites.items()) if site.epsilon)
        budget = f"epsilon {config.privacy.epsilon:g} at delta {config.privacy.delta:g}, spent: {spent or 'nothing'}"
    console.print(f"privacy budget: {budget}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _heading(status: RunStatus, name: str, rounds: int, folder: str) -> list[str]:
    """Name the run, its state and its rounds, and what can be done."""
    words = [f"{name}: {status.state}, {status.done} of {status.rounds or rounds} rounds done"]
    if status.current:
        words.append(f"round {status.current} going on")
    if status.resumed:
        words.append(f"resumed {status.resumed} time(s)")
    lines = [", ".join(words)]
    if status.reason:
        lines.append(f"reason: {status.reason}")
    if status.state in ("failed", "broken off"):
        lines.append(f"to go on: lavq run --resume {folder} (flwr run: its settings and run.resume=true)")
    return lines


def _table(status: RunStatus) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table("site", "state", "last answer")
    for title in ("rounds", "failures", "bytes down", "bytes up", "seconds"):
        table.add_column(title, justify="right")
    for name in sorted(status.sites):
        site = status.sites[name]
        numbers = (site.rounds, site.failures, site.bytes_down, site.bytes_up)
        table.add_row(escape(name), site.state, escape(site.last), *(f"{n:,}" for n in numbers), f"{site.seconds:,.1f}")
    return table
