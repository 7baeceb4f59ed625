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

HELP = "look after one hospital: its data card, whether it is ready to join, and its privacy ledger"
EXAMPLE = """\
  lavq site check federation/sites/st-mary
  lavq site ledger federation/sites/st-mary
  lavq site report /path/to/ptb-xl --out data-card.html
  lavq site report /path/to/ptb-xl --out data-card.html --noise noise.csv"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments: one subcommand a line."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _configure_report(add_command(actions, "report", _REPORT, _REPORT_EXAMPLE))
    _configure_check(add_command(actions, "check", _CHECK, _CHECK_EXAMPLE))
    _configure_ledger(add_command(actions, "ledger", _LEDGER, _LEDGER_EXAMPLE))


def execute(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    return int(args.action(args) or 0)


_CHECK_EXAMPLE = """\
  lavq site check federation/sites/st-mary"""
_CHECK = "look at data, quality, ledger, certificates, clock, policy and connection, and say what is wrong"


def _configure_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="the site's folder, which holds site.toml")
    parser.add_argument(
        "--pretrained", default="", metavar="SHA256", help="the pre-trained network that a coming run will ask for"
    )
    parser.set_defaults(action=_check)


def _check(args: argparse.Namespace) -> int:
    """Print a line a finding; 1 if something is wrong."""
    from rich.console import Console

    from client.site_check import WRONG, check_site
    from server.deployment.folders import SiteNodeFolder

    console, wrong = Console(soft_wrap=True, highlight=False, markup=False), 0
    for finding in check_site(SiteNodeFolder(_resolved(args.folder)), args.pretrained):
        console.print(f"{finding.level:8}{finding.topic:14}{finding.text}")
        wrong += finding.level == WRONG
    console.print(f"{wrong} thing(s) to put right before this site joins" if wrong else "ready to join")
    return 1 if wrong else 0


_LEDGER_EXAMPLE = """\
  lavq site ledger federation/sites/st-mary
  lavq site ledger federation/sites/st-mary --successor-of FINGERPRINT

after records were added, corrected or taken out the data have another fingerprint, and nothing private is released
until the site's operator declares them the successor of those before. Everything that was released from either then
counts for every patient: who was in both has paid all of it, who is new has paid less than is counted"""
_LEDGER = "say what was released privately and what is left of the budget; declare changed data"


def _configure_ledger(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="the site's folder, which holds site.toml")
    parser.add_argument("--successor-of", metavar="FINGERPRINT", help="enter that the data in site.toml follow these")
    parser.add_argument("--sampling-rate", type=int, default=100, metavar="HZ", help="100 or 500 (default 100)")
    parser.set_defaults(action=_ledger)


def _ledger(args: argparse.Namespace) -> int:
    """Print what the ledger holds, or declare a successor."""
    from rich.console import Console

    from client.policy import SitePolicy
    from client.site_ledger import declare_successor, fingerprint, ledger_in_words, open_data, site_ledger
    from server.deployment.folders import SiteNodeFolder

    console, folder = Console(soft_wrap=True, highlight=False, markup=False), SiteNodeFolder(_resolved(args.folder))
    policy, database = SitePolicy.load(folder.policy), open_data(folder, args.sampling_rate)
    if args.successor_of:
        console.print(declare_successor(folder, policy, args.successor_of, database))
    else:
        console.print(ledger_in_words(site_ledger(folder, policy, fingerprint(database))))
    return 0


def _resolved(folder: str) -> Path:
    return Path(folder).expanduser().resolve()


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
