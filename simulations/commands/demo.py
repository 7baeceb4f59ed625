"""``lavq demo``: a real Flower federation of four hospitals on real ECGs."""

from __future__ import annotations

import argparse
from pathlib import Path

from simulations.commands.arguments import add_settings

HELP = "run a real Flower federation of four hospitals on the bundled ECGs and show the result"
EXAMPLE = """\
  lavq demo
  lavq demo --data /path/to/ptb-xl --out runs/mine federation.rounds=4"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_settings(parser)
    parser.add_argument("--out", metavar="RUN", help="run folder (default: runs/demo-TIME)")


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    from rich.console import Console

    from lavq_core.runs.layout import RunFolder
    from simulations.finish import finish_run
    from simulations.flower_runtime import run_federation
    from simulations.launch import prepare

    overrides, config = prepare(args.overrides, args.data, args.out, "demo")
    run_federation(overrides, config.federation.sites)
    report = finish_run(RunFolder(Path(config.run.dir)))
    Console().print(f"report: {report}", soft_wrap=True, highlight=False)
    return 0
