"""How help texts are laid out: prose is wrapped to the terminal, commands to copy stay on their lines."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any


class HelpFormatter(argparse.HelpFormatter):
    """argparse's formatter, but for lines that begin with a space, and for a column that holds every command's name."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        blocks: list[str] = []
        prose: list[str] = []
        for line in [*text.splitlines(), ""]:
            if line and not line.startswith(" "):
                prose.append(line)
                continue
            blocks += textwrap.wrap(" ".join(prose), width, initial_indent=indent, subsequent_indent=indent)
            blocks.append(line)
            prose = []
        return "\n".join(blocks[:-1])

    def add_argument(self, action: argparse.Action) -> None:
        """Take an argument's help; names of subcommands are indented, for which argparse leaves no room."""
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            self._action_max_length += self._indent_increment


def add_command(
    commands: argparse._SubParsersAction, name: str, text: str, example: str = ""
) -> argparse.ArgumentParser:
    """Add a command with its one line of help and its example.

    Args:
        commands: of a parser's ``add_subparsers``.
        name: of the command.
        text: one line, in the list of commands and above the command's own help.
        example: commands, each indented by two, and what else should be known, not indented.
    """
    shape: dict[str, Any] = {"formatter_class": HelpFormatter, "description": text, "help": text}
    parser: argparse.ArgumentParser = commands.add_parser(
        name, **shape, epilog=f"example:\n{example}" if example else None
    )
    return parser
