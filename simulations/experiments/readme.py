"""Tables in the README, generated from results files. A test fails when the two differ."""

from __future__ import annotations

import re
from pathlib import Path

from lavq_core.errors import RunError
from simulations.experiments.results_file import Row, read_results

README = Path(__file__).resolve().parents[2] / "README.md"
_COLUMNS = {"macro_auc.pooled": "pooled", "macro_auc.worst_site": "worst site"}


def render(name: str) -> str:
    """Render one results file as a Markdown table: a row an arm, a column a metric, and the command that made it."""
    content = read_results(name)
    rows: list[Row] = content["rows"]
    metrics = list(dict.fromkeys(row.metric for row in rows))
    metrics.sort(key=lambda metric: (metric == "macro_auc.worst_site", metric != "macro_auc.pooled", metric))
    titles = [_COLUMNS.get(metric, metric.removeprefix("macro_auc.site.")) for metric in metrics]
    lines = ["| macro AUC | " + " | ".join(titles) + " |", "|---|" + "---|" * len(metrics)]
    for arm in dict.fromkeys(row.arm for row in rows):
        cells = {
            row.metric: f"{_short(row.value)} [{_short(row.low)}, {_short(row.high)}]" for row in rows if row.arm == arm
        }
        lines.append(f"| {arm} | " + " | ".join(cells.get(metric, "") for metric in metrics) + " |")
    data, seeds = content["data"], max(row.seeds for row in rows)
    lines += [
        "",
        f"{data['test_records']} test records of {data['records']} ({data['name']}, {data['patients']} patients), "
        f"mean of {seeds} seeds [95 % interval, patients drawn]; written by `{content['command']}` and `lavq results`.",
    ]
    return "\n".join(lines)


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


def _short(value: float) -> str:
    """Three decimals without the leading zero, as in .912."""
    return f"{value:.3f}".replace("0.", ".", 1) if value < 1 else f"{value:.3f}"
