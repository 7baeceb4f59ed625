"""A document of short tables, written as Markdown, as a self-contained HTML page, or to the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lavq_core.errors import ConfigError
from lavq_core.runs.layout import write_atomic

_STYLE = """\
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; background: Canvas; color: CanvasText; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 0 0 .3rem; padding-top: 1.4rem; margin-top: 1.4rem; border-top: 1px solid #8886; }
p { max-width: 72ch; margin: .4rem 0; }
table { border-collapse: collapse; margin: .6rem 0; line-height: 1.35; }
th, td { padding: .35rem 1.6rem .35rem 0; text-align: left; border-bottom: 1px solid #8886; overflow-wrap: break-word; }
th { vertical-align: bottom; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th.n { white-space: normal; max-width: 9rem; }
.scroll { overflow-x: auto; }
h1, p { overflow-wrap: anywhere; }
@media (max-width: 40rem) { th, td { padding-right: .7rem; } }
@media print { .scroll { overflow: visible; break-inside: avoid; } }
"""
_NUMBER = re.compile(r"[\u00b1\d][\d.,]*( %)?|\u00b1 \d+|")


@dataclass(frozen=True)
class Section:
    """One table with a heading, and what a reader should know of it."""

    title: str
    note: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def write_card(path: Path, title: str, intro: str, sections: Sequence[Section]) -> None:
    """Write the document; its suffix, ``.md`` or ``.html``, says how.

    Raises:
        ConfigError: another suffix, or a folder that cannot be written.
    """
    writers = {".md": markdown, ".html": html}
    if path.suffix not in writers:
        raise ConfigError(f"{path} names no format of a data card: end it with {' or '.join(writers)}")
    try:
        write_atomic(path, writers[path.suffix](title, intro, sections))
    except OSError as error:
        raise ConfigError(f"cannot write {path} ({error.strerror}): choose another place") from None


def markdown(title: str, intro: str, sections: Sequence[Section]) -> str:
    """Write Markdown."""
    parts = [f"# {title}", intro]
    for section in sections:
        parts += [f"## {section.title}", *([section.note] if section.note else [])]
        if section.rows:
            lines = [section.head, ("---",) * len(section.head), *section.rows]
            parts.append("\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines))
    return "\n\n".join(parts) + "\n"


def html(title: str, intro: str, sections: Sequence[Section]) -> str:
    """Write one page that asks for nothing from outside."""

    def row(cells: Sequence[str], tag: str, numbers: Sequence[bool]) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        kinds = [' class="n"' if number else "" for number in numbers]
        marked = zip(cells, kinds, strict=True)
        return "<tr>" + "".join(f"<{tag}{scope}{kind}>{escape(cell)}</{tag}>" for cell, kind in marked) + "</tr>"

    body = [f"<h1>{escape(title)}</h1>", f"<p>{escape(intro)}</p>"]
    for section in sections:
        body.append(f"<h2>{escape(section.title)}</h2>")
        if section.note:
            body.append(f"<p>{escape(section.note)}</p>")
        if section.rows:
            columns = list(zip(*section.rows, strict=True))
            numbers = [all(_NUMBER.fullmatch(cell) for cell in column) for column in columns]
            rows = "\n".join(row(cells, "td", numbers) for cells in section.rows)
            table = f"<table><thead>{row(section.head, 'th', numbers)}</thead><tbody>\n{rows}\n</tbody></table>"
            body.append(
                f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(section.title)}">{table}</div>'
            )
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def show(console: Console, section: Section) -> None:
    """Print one table."""
    table = Table(*section.head, title=section.title, title_justify="left")
    for cells in section.rows:
        table.add_row(*cells)
    console.print(table)
