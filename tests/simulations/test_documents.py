"""Every command that a document or a help text shows can be given: its options exist, its settings too."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from lavq_core.cli.main import GROUP, _commands, _parser
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
    for entry in entry_points(group=GROUP):
        for line in _LINE.findall(entry.load().EXAMPLE):
            yield f"lavq {entry.name} --help", line


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
