"""``lavq``: finds the commands that the installed packages bring, and runs one.

A command is a module named in the entry-point group ``lavq.commands`` with ``HELP`` (one line), ``EXAMPLE``,
``configure(parser)`` and ``execute(args)``. Its module imports nothing heavy before ``execute``, so that help is quick.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points, version
from types import ModuleType
from typing import cast

from lavq_core.cli.arguments import CommandParser
from lavq_core.cli.help import HelpFormatter, add_command
from lavq_core.errors import LavqError

GROUP = "lavq.commands"
ORDER = (
    "demo", "run", "status", "watch", "report", "audit",
    "detect", "evaluate", "twin", "studio", "personalize", "convert", "export", "experiment", "bench", "results",
    "deploy", "site", "serve",
)  # fmt: skip
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (2 for an error that the user can put right)."""
    parser = _parser(_commands())
    args = parser.parse_args(arguments)
    if not hasattr(args, "execute"):
        parser.print_help()
        return 0
    try:
        return int(args.execute(args) or 0)
    except LavqError as error:
        print(f"lavq: {error}", file=sys.stderr)  # noqa: T201 -- the command line's own output
        return 2
    except KeyboardInterrupt:
        print("lavq: interrupted", file=sys.stderr)  # noqa: T201
        return _INTERRUPTED


def _commands() -> list[EntryPoint]:
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    rank = {name: place for place, name in enumerate(ORDER)}
    return sorted(found.values(), key=lambda entry: (rank.get(entry.name, len(rank)), entry.name))


def _parser(commands: Sequence[EntryPoint]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lavq",
        description="Federated, privacy-preserving training of ECG detectors, separators and digital twins. "
        "Research use, not a medical device.",
        epilog="lavq COMMAND --help shows a command's arguments and an example.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lavq {version('lavq')}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=CommandParser)
    for entry in commands:
        module = cast(ModuleType, entry.load())
        sub = add_command(subparsers, entry.name, module.HELP, module.EXAMPLE)
        module.configure(sub)
        sub.set_defaults(execute=module.execute)
    return parser
