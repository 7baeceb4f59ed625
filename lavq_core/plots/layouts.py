"""Where each lead's trace stands on the paper: rows of cells, each a lead and its share of the recording's time."""

from __future__ import annotations

from dataclasses import dataclass

from lavq_core.errors import ConfigError
from lavq_core.signals.leads import LEADS


@dataclass(frozen=True)
class Cell:
    """One lead, from ``start`` to ``stop`` (fractions 0..1 of the recording): all leads of a row share one clock."""

    lead: str
    start: float
    stop: float


Row = tuple[Cell, ...]


def _columns(leads: tuple[str, ...], count: int) -> tuple[Row, ...]:
    """Fill ``count`` columns top to bottom; each column shows its own stretch of time, as ECG recorders print it."""
    height = len(leads) // count
    return tuple(
        tuple(Cell(leads[column * height + row], column / count, (column + 1) / count) for column in range(count))
        for row in range(height)
    )


LAYOUTS: dict[str, tuple[Row, ...]] = {
    "3x4+II": (*_columns(LEADS, 4), (Cell("II", 0.0, 1.0),)),
    "3x4": _columns(LEADS, 4),
    "6x2": _columns(LEADS, 2),
    "12x1": _columns(LEADS, 1),
}


def layout_rows(name: str) -> tuple[Row, ...]:
    """Return a layout's rows.

    Raises:
        ConfigError: no such layout.
    """
    if name not in LAYOUTS:
        raise ConfigError(f"no ECG layout {name!r}: choose one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]
