"""The measures of a page of ECG paper: how high each row must be, and where everything stands, in millimetres.

The origin is the page's lower left corner, so a length in the code is the length on paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lavq_core.plots.layouts import Cell, Row
from lavq_core.signals.leads import LEADS

MM_PER_SECOND = 25.0
MM_PER_MILLIVOLT = 10.0
MARGIN = 5.0  # left and right of the calibration and the traces
_CALIBRATION_WIDTH = 10.0
_FOOTER = 8.0
_LABEL_HEIGHT = 4.0
_LABEL_SECONDS = 0.36  # of a trace that runs below its lead's name
MOST = 100.0  # mm above or below the baseline; what reaches further is cut there, and the footer says so


@dataclass(frozen=True)
class PlacedRow:
    """A row of the layout at its place on the page, mm from the lower edge."""

    cells: Row
    baseline: float
    top: float
    bottom: float
    label_y: float


@dataclass(frozen=True)
class Page:
    """The page's measures, in mm, and its rows."""

    width: float
    height: float
    duration: float  # s
    rows: tuple[PlacedRow, ...]

    @property
    def left(self) -> float:
        """Where time 0 stands."""
        return MARGIN + _CALIBRATION_WIDTH

    @property
    def grid(self) -> tuple[float, float, float, float]:
        """Left, bottom, right and top of the paper's grid."""
        return 0.0, _FOOTER, self.width, self.rows[0].top

    def x(self, seconds: float | NDArray[np.floating]) -> NDArray[np.floating]:
        """Position of a time."""
        return np.asarray(self.left + MM_PER_SECOND * np.asarray(seconds))


def place_rows(
    rows: tuple[Row, ...], traces: list[NDArray[np.floating]], rate: float, header: float, gate_height: float
) -> Page:
    """Give each row the height its traces need, in whole 5 mm boxes, and stack the rows from the top.

    Args:
        rows: of a layout.
        traces: each ``(12, T)`` mV.
        rate: Hz.
        header: mm kept free above the paper.
        gate_height: mm of paper kept free below the last row.
    """
    samples = traces[0].shape[1]
    needs = []
    for cells in rows:
        pieces = [piece_of(trace, cell) for trace in traces for cell in cells]
        labelled = max(_peak(piece[: math.ceil(_LABEL_SECONDS * rate)]) for piece in pieces)
        label_y = max(7.0, labelled + 1.5)
        above = min(_boxes(max(15.0, label_y + _LABEL_HEIGHT, max(_peak(piece) for piece in pieces) + 1.0)), MOST)
        below = min(_boxes(max(5.0, max(_peak(-piece) for piece in pieces) + 1.0)), MOST)
        needs.append((cells, above, below, min(label_y, above - _LABEL_HEIGHT)))
    height = header + sum(above + below for _, above, below, _ in needs) + gate_height + _FOOTER
    top = height - header
    placed = []
    for cells, above, below, label_y in needs:
        baseline = top - above
        placed.append(PlacedRow(cells, baseline, top, baseline - below, baseline + label_y))
        top = baseline - below
    duration = samples / rate
    width = 2 * MARGIN + _CALIBRATION_WIDTH + _boxes(MM_PER_SECOND * duration)
    return Page(width, height, duration, tuple(placed))


def span_of(cell: Cell, samples: int) -> slice:
    """Return the samples that a cell shows of a recording of so many."""
    return slice(round(cell.start * samples), round(cell.stop * samples))


def piece_of(trace: NDArray[np.floating], cell: Cell) -> NDArray[np.floating]:
    """One lead's stretch of a ``(12, T)`` trace."""
    return trace[LEADS.index(cell.lead), span_of(cell, trace.shape[1])]


def _peak(millivolts: NDArray[np.floating]) -> float:
    """Highest point above the baseline in mm; 0 where nothing was recorded."""
    finite = millivolts[np.isfinite(millivolts)]
    return float(finite.max()) * MM_PER_MILLIVOLT if finite.size else 0.0


def _boxes(millimetres: float) -> float:
    """Round up to whole 5 mm boxes."""
    return 5.0 * math.ceil(round(millimetres / 5.0, 6))
