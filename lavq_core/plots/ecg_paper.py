"""Twelve leads on calibrated paper: 25 mm/s, 10 mm/mV, boxes of 1 mm and 5 mm, a 1 mV pulse before each row.

Format after Kligfield et al. 2007, *Recommendations for the standardization and interpretation of the
electrocardiogram, part I* (Circulation 115:1306), section on display.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lavq_core.plots import marks
from lavq_core.plots.files import MM_PER_INCH
from lavq_core.plots.layouts import layout_rows
from lavq_core.plots.page import (
    MARGIN,
    MM_PER_MILLIVOLT,
    MM_PER_SECOND,
    MOST,
    Page,
    PlacedRow,
    piece_of,
    place_rows,
    span_of,
)
from lavq_core.signals.leads import LEADS

_TITLE_LINE, _LEGEND_LINE = 10.0, 5.0  # mm above the paper
_GATE_ROW = 10.0  # mm of paper below the last row


def draw_ecg(
    signal: NDArray[np.floating],
    sampling_rate: float,
    *,
    layout: str = "3x4+II",
    reference: NDArray[np.floating] | None = None,
    envelope: NDArray[np.floating] | None = None,
    gate: NDArray[np.floating] | None = None,
    title: str = "",
    synthetic: bool = False,
) -> Figure:
    """Draw an ECG, or a digital twin over the ECG it was made from.

    Args:
        signal: ``(12, T)`` mV in canonical lead order; NaN where a lead was not recorded.
        sampling_rate: Hz.
        layout: ``3x4+II``, ``3x4``, ``6x2`` or ``12x1``.
        reference: ``(12, T)`` mV, drawn below ``signal`` in the second colour.
        envelope: ``(T,)`` in 0..1, how much of each sample was edited; shaded behind the traces.
        gate: ``(tokens,)`` in 0..1, drawn as steps below the last row.
        title: first line of the page.
        synthetic: mark the page as a digital twin's.

    Returns:
        A figure as large as the paper: 10 s are 250 mm wide.

    Raises:
        ConfigError: no such layout.
        ValueError: an array of another shape, or a rate that is not positive.
    """
    rows = layout_rows(layout)
    _check_shapes(signal, sampling_rate, reference, envelope)
    traces = [signal] if reference is None else [signal, reference]
    entries = _legend_entries(reference is not None, synthetic, envelope is not None)
    header = _TITLE_LINE + (_LEGEND_LINE if entries else 0.0)
    page = place_rows(rows, traces, sampling_rate, header, _GATE_ROW if gate is not None else 0.0)
    figure = Figure(figsize=(page.width / MM_PER_INCH, page.height / MM_PER_INCH), facecolor="white")
    figure.set_label(_accessible_title(title, synthetic, reference is not None))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0.0, page.width)
    axes.set_ylim(0.0, page.height)
    marks.draw_grid(axes, page.grid)
    if envelope is not None:
        _shade_edits(axes, page, envelope, sampling_rate)
    if synthetic:
        marks.draw_watermark(axes, page.grid)
    colour = marks.TWIN if synthetic else marks.INK
    for row in page.rows:
        marks.draw_pulse(axes, MARGIN, row.baseline, MM_PER_MILLIVOLT)
        if reference is not None:
            _draw_row(axes, page, row, reference, sampling_rate, marks.REFERENCE, "reference")
        _draw_row(axes, page, row, signal, sampling_rate, colour, "twin" if synthetic else "ecg")
        _name_leads(axes, page, row, signal)
    if gate is not None:
        _draw_gate(axes, page, gate)
    marks.draw_header(axes, page.width, page.height, title, synthetic, entries)
    marks.draw_footer(axes, page.width, _footnotes(sampling_rate, traces))
    return figure


def _check_shapes(
    signal: NDArray[np.floating],
    rate: float,
    reference: NDArray[np.floating] | None,
    envelope: NDArray[np.floating] | None,
) -> None:
    if signal.ndim != 2 or signal.shape[0] != len(LEADS) or signal.shape[1] < 2:
        raise ValueError(f"signal has shape {signal.shape}, not (12, T)")
    if reference is not None and reference.shape != signal.shape:
        raise ValueError(f"reference has shape {reference.shape}, the signal {signal.shape}")
    if envelope is not None and envelope.shape != signal.shape[1:]:
        raise ValueError(f"envelope has shape {envelope.shape}, not {signal.shape[1:]}")
    if rate <= 0:
        raise ValueError(f"sampling rate {rate} Hz is not positive")


def _draw_row(
    axes: Axes, page: Page, row: PlacedRow, trace: NDArray[np.floating], rate: float, colour: str, kind: str
) -> None:
    for cell in row.cells:
        span = span_of(cell, trace.shape[1])
        x = page.x(np.arange(span.start, span.stop) / rate)
        y = row.baseline + np.clip(MM_PER_MILLIVOLT * piece_of(trace, cell), -MOST, MOST)
        marks.draw_trace(axes, x, y, colour, f"{kind} lead-{cell.lead}")


def _name_leads(axes: Axes, page: Page, row: PlacedRow, signal: NDArray[np.floating]) -> None:
    for cell in row.cells:
        x = float(page.x(cell.start * page.duration))
        missing = not np.isfinite(piece_of(signal, cell)).any()
        marks.write(axes, x + 1.5, row.label_y, cell.lead + (" (not recorded)" if missing else ""), 3.2, bold=True)
        if cell.start > 0.0:
            marks.draw_lead_change(axes, x, row.baseline)


def _shade_edits(axes: Axes, page: Page, envelope: NDArray[np.floating], rate: float) -> None:
    """Shade each sample's width in every row, darker where more of it was edited."""
    half = 0.5 / rate
    for level in marks.SHADE_LEVELS:
        boxes = []
        for row in page.rows:
            for cell in row.cells:
                span = span_of(cell, envelope.shape[0])
                for first, last in _runs(envelope[span] >= level):
                    start, stop = page.x(np.array([span.start + first, span.start + last]) / rate + (-half, half))
                    boxes.append((float(start), row.bottom + 0.5, float(stop), row.top - 0.5))
        marks.draw_shade(axes, boxes, level)


def _runs(inside: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last index of each run of True."""
    edges = np.diff(np.concatenate([[0], inside.astype(np.int8), [0]]))
    return list(zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1, strict=True))


def _draw_gate(axes: Axes, page: Page, gate: NDArray[np.floating]) -> None:
    bottom = page.rows[-1].bottom - _GATE_ROW + 2.0
    edges = page.x(np.linspace(0.0, page.duration, gate.shape[0] + 1))
    marks.draw_steps(axes, edges, bottom, np.clip(gate, 0.0, 1.0) * 5.0)
    marks.write(axes, MARGIN, bottom + 1.2, "gate", 3.0)


def _legend_entries(has_reference: bool, synthetic: bool, has_envelope: bool) -> list[tuple[str, str, str]]:
    """Return ``(kind, colour, words)`` of what is drawn; a page with one plain trace needs none."""
    entries = []
    if has_reference:
        entries.append(("line", marks.REFERENCE, "reference: recorded ECG"))
    if synthetic:
        entries.append(("line", marks.TWIN, "digital twin"))
    if has_envelope:
        entries.append(("box", marks.SHADE, "edited segment"))
    return entries


def _footnotes(rate: float, traces: list[NDArray[np.floating]]) -> str:
    notes = [
        f"{MM_PER_SECOND:g} mm/s",
        f"{MM_PER_MILLIVOLT:g} mm/mV",
        f"{rate:g} Hz sampling: bandwidth below {rate / 2:g} Hz",
    ]
    limit = MOST / MM_PER_MILLIVOLT
    if any(np.nanmax(np.abs(trace), initial=0.0) > limit for trace in traces):
        notes.append(f"cut at {limit:g} mV")
    return "   ·   ".join(notes)


def _accessible_title(title: str, synthetic: bool, has_reference: bool) -> str:
    kind = "Synthetic 12-lead ECG (digital twin)" if synthetic else "12-lead ECG"
    return f"{kind}{' over its reference' if has_reference else ''}{': ' + title if title else ''}"
