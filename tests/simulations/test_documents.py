"""Every command that a document or a help text shows can be given: its options exist, its settings too."""

from __future__ import annotations

import re
import shlex
from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from pathlib import Path

import pytest

from lavq_core.cli.main import _commands, _parser
from lavq_core.config import compose

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *(page for d in ("client", "server", "simulations") for page in (ROOT / d).rglob("*.md"))]
_LINE = re.compile(r"^ {2,4}(?:\$ )?(lavq .*)$", re.MULTILINE)
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)")


def shown() -> Iterator[tuple[str, str]]:
    """Commands, and where they stand."""
    for page in PAGES:
        for line in _LINE.findall(page.read_text(encoding="utf-8")):
            yield page.relative_to(ROOT).as_posix(), line
    for parser in parsers(_parser(_commands())):
        for line in _LINE.findall(parser.epilog or ""):
            yield f"{parser.prog} --help", line


def parsers(parser: ArgumentParser) -> Iterator[ArgumentParser]:
    """A command's parser and those of its actions."""
    yield parser
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            for nested in action.choices.values():
                yield from parsers(nested)


def single(line: str) -> Iterator[list[str]]:
    """The words of each command in a line; what stands behind ``#`` or far to the right is a remark."""
    words: list[str] = []
    for word in [*shlex.split(re.split(" {3,}", line)[0], comments=True), "&&"]:
        if word not in ("&&", "&"):
            words.append(word)
        elif words:
            yield words[1:]
            words = []


@pytest.mark.parametrize(("where", "line"), list(shown()))
def test_a_command_that_is_shown_can_be_given(where: str, line: str) -> None:
    parser = _parser(_commands())
    for words in single(line):
        arguments, rest = parser.parse_known_args(words)
        assert [word for word in rest if "=" not in word or word.startswith("-")] == [], where
        settings = [*getattr(arguments, "overrides", []), *rest]
        if settings:
            compose(settings)
        for word in words:
            if word.startswith(("simulations/", "lavq_core/", "configs/")):
                assert (ROOT / word).exists() or (ROOT / f"{word}.hea").exists(), word


@pytest.mark.parametrize("parser", list(parsers(_parser(_commands()))), ids=lambda parser: parser.prog)
def test_every_help_fits_a_terminal_explains_every_argument_and_ends_in_an_example(
    parser: ArgumentParser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = parser.format_help()
    assert [line for line in text.splitlines() if len(line) > 100] == []
    actions = [action for action in parser._actions if not isinstance(action, _SubParsersAction)]
    assert [action.dest for action in actions if not action.help] == []
    assert parser.prog == "lavq" or f"  {parser.prog}" in text.partition("\nexample:\n")[2]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
