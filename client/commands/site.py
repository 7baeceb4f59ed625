"""``lavq site``: look after one hospital of a deployment."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "look after one hospital of a deployment"
EXAMPLE = """\
  lavq site check federation/sites/st-mary"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments: one subcommand a line."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _configure_check(actions.add_parser("check", help=_CHECK, description=_CHECK))


def execute(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    return int(args.action(args) or 0)


_CHECK = "look at data, quality, certificates, clock, policy and connection, and say what is wrong"


def _configure_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="the site's folder, which holds site.toml")
    parser.set_defaults(action=_check)


def _check(args: argparse.Namespace) -> int:
    """Print a line a finding; 1 if something is wrong."""
    from rich.console import Console

    from client.site_check import WRONG, check_site
    from server.deployment.folders import SiteNodeFolder

    console, wrong = Console(soft_wrap=True, highlight=False, markup=False), 0
    for finding in check_site(SiteNodeFolder(Path(args.folder).expanduser().resolve())):
        console.print(f"{finding.level:8}{finding.topic:14}{finding.text}")
        wrong += finding.level == WRONG
    console.print(f"{wrong} thing(s) to put right before this site joins" if wrong else "ready to join")
    return 1 if wrong else 0
