"""``lavq site``: look after one hospital."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from client.data_card import Section
    from lavq_core.data.database import Database

from lavq_core.cli.help import add_command

HELP = "look after one hospital: its data card, and whether it is ready to join"
EXAMPLE = """\
  lavq site check federation/sites/st-mary
  lavq site report /path/to/ptb-xl --out data-card.html
  lavq site report /path/to/ptb-xl --out data-card.html --noise noise.csv"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments: one subcommand a line."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _configure_report(add_command(actions, "report", _REPORT, _REPORT_EXAMPLE))
    _configure_check(add_command(actions, "check", _CHECK, _CHECK_EXAMPLE))


def execute(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    return int(args.action(args) or 0)


_CHECK_EXAMPLE = """\
  lavq site check federation/sites/st-mary"""
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


_REPORT_EXAMPLE = """\
  lavq site report simulations/sample
  lavq site report /path/to/ptb-xl --out data-card.html

the card names records: keep it at the site"""
_REPORT = "write the site's data card: records, patients, quality, duplicates, healthy patients"


def _configure_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("database", metavar="DIR", help="a folder in PTB-XL's layout")
    parser.add_argument(
        "--out", metavar="FILE", help="the whole card, FILE.html or FILE.md (default: the summary alone)"
    )
    parser.add_argument("--sampling-rate", type=int, default=100, metavar="HZ", help="100 or 500 (default 100)")
    parser.add_argument(
        "--noise", metavar="CSV", help="learn from the records themselves which are noisy (a minute): a score of each"
    )
    parser.set_defaults(action=_report)


def _report(args: argparse.Namespace) -> int:
    """Print the summary, write the card."""
    from rich.console import Console

    from client.data_card import show, write_card
    from client.site_report import INTRO, site_report
    from lavq_core.data.database import Database

    error = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    database = Database.open(args.database, args.sampling_rate)
    with error.status("looking for beats and duplicates, and how much noise a budget of privacy asks for"):
        sections = site_report(database)
    if args.noise:
        sections.append(_noise(database, Path(args.noise), error))
    console = Console(highlight=False)
    for section in sections[:2]:
        show(console, section)
    if args.out:
        write_card(Path(args.out), f"Data card: {database.folder.name}", INTRO, sections)
        error.print(f"{len(sections)} sections, written to {args.out}; it names records: keep it at the site")
    return 0


def _noise(database: Database, path: Path, error: Console) -> Section:
    """Write every record's noise, and return the card's section."""
    from client.noise_card import noise_section, noise_table, write_noise_table

    with error.status("learning what is usual here, and scoring every record"):
        table = noise_table(database)
    write_noise_table(path, table)
    error.print(f"noise of {len(table)} records, written to {path}; it names records: keep it at the site")
    return noise_section(table)
