"""The README's tables of the results file ``bench``, after the catalogue."""

from __future__ import annotations

from collections.abc import Sequence

from simulations.benchmarks.catalogue import COMPARED, FACTS, GROWTHS, Aim, Compared
from simulations.experiments.results_file import Row

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))


def tables(rows: Sequence[Row]) -> list[str]:
    """Lay out ratios, costs, figures by a constant of another day, growth, and plain figures."""
    found = {(row.arm, row.metric): row for row in rows}
    measured = [entry for entry in COMPARED if (entry.name, f"{entry.name}.ratio") in found]
    faster = [entry for entry in measured if not entry.is_cost]
    costs = [entry for entry in measured if entry.is_cost]
    lines = _comparison("times as fast", faster, found)
    lines += ["", *_comparison("times the time", costs, found)]
    lines += ["", *_constants([entry for entry in measured if entry.constant is not None], found)]
    lines += ["", "| growth | seconds at each size | exponent |", "|---|---|---|"]
    lines += [_growth(name, rows) for name in GROWTHS if (name, "slope") in found]
    lines += ["", "| figure | measured | aim |", "|---|---|---|"]
    for fact in FACTS:
        row = found.get((fact.arm, fact.metric))
        if row is not None:
            value = f"{number(row.value / fact.scale)} {fact.unit}" if fact.unit != "1 /" else f"1 / {row.value:.0f}"
            lines.append(f"| {fact.what} | {value} | {verdict(fact.aim, row.value / fact.scale)} |")
    return lines


def _comparison(title: str, entries: Sequence[Compared], found: dict[tuple[str, str], Row]) -> list[str]:
    lines = [f"| ours | beside | {title} | ours | reference | aim |", "|---|---|---|---|---|---|"]
    for entry in entries:
        ratio, ours, reference = (
            found[entry.name, f"{entry.name}.{which}"] for which in ("ratio", "seconds", "reference_seconds")
        )
        lines.append(
            f"| {entry.what} | {entry.reference} | {span(ratio)} | {duration(ours.value)} a {entry.unit} "
            f"| {duration(reference.value)} | {verdict(entry.aim, ratio.value)} |"
        )
    return lines


def _constants(entries: Sequence[Compared], found: dict[tuple[str, str], Row]) -> list[str]:
    """Rows whose reference was not run here: they are no ratio of one run, and say so."""
    lines = [
        "| beside a constant measured on another day | times as fast | ours | constant | aim |",
        "|---|---|---|---|---|",
    ]
    for entry in entries:
        ratio, ours = (found[entry.name, f"{entry.name}.{which}"] for which in ("constant_ratio", "seconds"))
        assert entry.constant is not None
        lines.append(
            f"| {entry.what}; LAVQ-Editor's released code | {span(ratio)} | {duration(ours.value)} a {entry.unit} "
            f"| {duration(entry.constant)} | {verdict(entry.constant_aim, ratio.value)} |"
        )
    return lines


def _growth(name: str, rows: Sequence[Row]) -> str:
    what, unit = GROWTHS[name]
    own = {row.metric: row for row in rows if row.arm == name}
    sizes = [
        f"{int(metric.split('.')[1]):,}: {duration(row.value)}" for metric, row in own.items() if metric != "slope"
    ]
    return f"| {what}, by {unit} | {', '.join(sizes)} | {span(own['slope'])} |"


def verdict(aim: Aim | None, figure: float) -> str:
    """Say what was aimed at, and whether it was reached."""
    return "" if aim is None else f"{aim}, {'met' if aim.met(figure) else '**missed**'}"


def span(row: Row) -> str:
    """Write a median and its spread."""
    return f"{number(row.value)} [{number(row.low)}, {number(row.high)}]"


def number(value: float) -> str:
    """Write three significant digits, and no exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Write seconds in the unit that suits them; 0 is what a results file could not hold."""
    if seconds <= 0.0:
        return "below 10 us"
    size, unit = next((item for item in _UNITS if seconds >= item[0]), _UNITS[-1])
    return f"{number(seconds / size)} {unit}"
