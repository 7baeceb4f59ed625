"""Rows of results files as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

from simulations.experiments.results_file import Row


def table_of(
    corner: str, titles: Sequence[str], lines: Sequence[tuple[str, str, Sequence[str]]], rows: Sequence[Row]
) -> list[str]:
    """Write a table of lines ``(title, arm, metrics)``; a figure that nobody measured leaves its cell empty."""
    found = {(row.arm, row.metric): figure(row) for row in rows}
    head = [f"| {corner} | " + " | ".join(titles) + " |", "|---|" + "---|" * len(titles)]
    return head + [
        f"| {title} | " + " | ".join(found.get((arm, metric), "") for metric in metrics) + " |"
        for title, arm, metrics in lines
    ]


def figure(row: Row | None) -> str:
    """Write a value and its interval, as in .912 [.901, .923]; nothing where there is no row."""
    return "" if row is None else f"{short(row.value)} [{short(row.low)}, {short(row.high)}]"


def p_value(p: float) -> str:
    """Write a p value to three decimals."""
    return "< .001" if p < 0.001 else short(p)


def short(value: float) -> str:
    """Write three decimals without the leading zero, as in .912; thousands without decimals."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"
