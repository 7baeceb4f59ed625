"""``lavq results``: put the results files' figures into the README."""

from __future__ import annotations

import argparse

HELP = "write the README's tables from the results files"
EXAMPLE = """\
  lavq results"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command has no arguments."""


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    from rich.console import Console

    from simulations.experiments.readme import README, update_readme

    changed = update_readme()
    Console().print(f"{README}: {'tables written' if changed else 'tables were up to date'}", soft_wrap=True)
    return 0
