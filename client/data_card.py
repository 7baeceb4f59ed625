"""A document of short tables, written as Markdown, as a self-contained HTML page, or to the terminal."""

from __future__ import annotations

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
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  background: Canvas; color: CanvasText; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .8rem; text-align: left; border-bottom: 1px solid #8886; overflow-wrap: break-word; }
.scroll { overflow-x: auto; }
h1, p { overflow-wrap: anywhere; }
td + td, th + th { font-variant-numeric: tabular-nums; }
@media (max-width: 40rem) { th, td { padding: .3rem .4rem; } }
"""


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

    def row(cells: Sequence[str], tag: str) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        return "<tr>" + "".join(f"<{tag}{scope}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = [f"<h1>{escape(title)}</h1>", f"<p>{escape(intro)}</p>"]
    for section in sections:
        body.append(f"<h2>{escape(section.title)}</h2>")
        if section.note:
            body.append(f"<p>{escape(section.note)}</p>")
        if section.rows:
            rows = "\n".join(row(cells, "td") for cells in section.rows)
            table = f"<table><thead>{row(section.head, 'th')}</thead><tbody>\n{rows}\n</tbody></table>"
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
