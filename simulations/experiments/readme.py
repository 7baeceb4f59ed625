"""Tables in the README, generated from results files. A test fails when the two differ."""

from __future__ import annotations

import re
from pathlib import Path

from lavq_core.errors import RunError
from simulations.experiments.readme_tables import LAYOUTS
from simulations.experiments.results_file import Row, read_results

README = Path(__file__).resolve().parents[2] / "README.md"


def render(name: str) -> str:
    """Render one results file as Markdown: a table, what it stands on, and the command that made it."""
    content = read_results(name)
    rows: list[Row] = content["rows"]
    # A case of the auditor's test bench is repeated as often as it says.
    data, seeds = content["data"], max(row.seeds for row in rows if name != "audit" or "/" not in row.arm)
    lines = LAYOUTS[name](rows)
    spread = f"mean of {seeds} seeds [95 % interval]"
    if name == "bench":
        pairs = max(row.n for row in rows)
        spread = f"median of {pairs} pairs [smallest, largest], one thread of a machine with {content['machine']}"
    if name == "audit":
        spread += ", of the test bench the range of all repeats"
    if name in ("federation", "population", "privacy"):
        basis = (
            f"{data['test_records']} test records of {data['records']} ({data['name']}, {data['patients']} patients)"
        )
    else:
        basis = f"{data['records']} records ({data['name']}, {data['patients']} patients)"
    return "\n".join(
        [
            *lines,
            "",
            f"{basis}, {spread}; written by `{content['command']}` and `lavq results`.",
        ]
    )


def update_readme(path: Path = README) -> bool:
    """Write every table between its marks ``<!-- results:NAME -->`` and ``<!-- /results -->``; tell if any changed.

    Raises:
        RunError: the README has no mark, or a results file is missing.
    """
    text = path.read_text(encoding="utf-8")
    fresh, found = re.subn(
        r"(<!-- results:([a-z]+) -->\n).*?(<!-- /results -->)",
        lambda match: f"{match[1]}{render(match[2])}\n{match[3]}",
        text,
        flags=re.DOTALL,
    )
    if not found:
        raise RunError(f"{path} has no mark <!-- results:NAME -->: put one where the table belongs")
    if fresh != text:
        path.write_text(fresh, encoding="utf-8")
    return fresh != text
