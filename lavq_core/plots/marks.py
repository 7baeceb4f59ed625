"""The marks on ECG paper: grid, pulse, traces, shading, words. All positions and sizes in millimetres.

Reference and twin differ in hue and in lightness (an orange-red against dark blue), so they stay apart for
colour-blind readers and in a grey print; the shade of edited segments is yellow, which neither is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from numpy.typing import NDArray

from lavq_core.plots.files import POINTS_PER_MM

INK = "#16181d"
REFERENCE = "#c8451b"
TWIN = "#0b3d91"
SHADE = "#ffd95c"
SHADE_LEVELS = (0.1, 0.35, 0.6, 0.85)  # envelope values; each adds one more layer

_PAPER, _MINOR, _MAJOR = "#fffbfa", "#f6dfdc", "#e9b8b2"
_MUTED = "#5c6470"
_SHADE_ALPHA = 0.13
_IN_TURN = 1.0  # one zorder for everything: what is added later lies on top
_PULSE = ((0.0, 0.0), (2.5, 0.0), (2.5, 1.0), (7.5, 1.0), (7.5, 0.0), (10.0, 0.0))  # mm, mV


def write(
    axes: Axes,
    x: float,
    y: float,
    words: str,
    size: float,
    *,
    colour: str = INK,
    bold: bool = False,
    align: str = "left",
) -> None:
    """Write words with their baseline at ``y``; ``size`` is the height of a line."""
    axes.text(
        x,
        y,
        words,
        fontsize=size * POINTS_PER_MM,
        color=colour,
        fontweight="bold" if bold else "normal",
        ha=align,
        va="baseline",
        parse_math=False,  # a name may hold a dollar sign
        zorder=_IN_TURN,
    )


def draw_trace(axes: Axes, x: NDArray[np.floating], y: NDArray[np.floating], colour: str, gid: str) -> None:
    """Draw one lead; gaps where ``y`` is NaN."""
    axes.add_artist(Line2D(x, y, color=colour, linewidth=0.3 * POINTS_PER_MM, clip_on=False, gid=gid, zorder=_IN_TURN))


def draw_grid(axes: Axes, box: tuple[float, float, float, float]) -> None:
    """Draw the paper: one path for the 1 mm boxes, one for the 5 mm boxes."""
    left, bottom, right, top = box
    size = (right - left, top - bottom)
    axes.add_artist(Rectangle((left, bottom), *size, facecolor=_PAPER, clip_on=False, gid="paper", zorder=_IN_TURN))
    for step, colour, width in ((1.0, _MINOR, 0.1), (5.0, _MAJOR, 0.15)):
        lines = [((x, bottom), (x, top)) for x in np.arange(left, right + 0.5, step)]
        # Counted from the top: the rows' baselines stand on 5 mm lines.
        lines += [((left, y), (right, y)) for y in np.arange(top, bottom - 0.5, -step)]
        _add_path(axes, [np.array(line) for line in lines], f"grid-{step:g}mm", edgecolor=colour, linewidth=width)


def draw_pulse(axes: Axes, x: float, baseline: float, mm_per_millivolt: float) -> None:
    """Draw the calibration pulse: 1 mV for 0.2 s, which is 10 mm high and 5 mm wide."""
    points = np.array([(x + dx, baseline + mm_per_millivolt * millivolts) for dx, millivolts in _PULSE])
    _add_path(axes, [points], "calibration", edgecolor=INK, linewidth=0.3)


def draw_lead_change(axes: Axes, x: float, baseline: float) -> None:
    """Draw the tick between two leads of a row."""
    _add_path(axes, [np.array([(x, baseline - 2.5), (x, baseline + 2.5)])], "tick", edgecolor=INK, linewidth=0.2)


def draw_shade(axes: Axes, boxes: Sequence[tuple[float, float, float, float]], level: float) -> None:
    """Fill boxes (left, bottom, right, top) with one layer of the shade."""
    corners = [np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]) for x0, y0, x1, y1 in boxes]
    if corners:
        gid = f"edited level-{round(100 * level)}"
        _add_path(axes, corners, gid, facecolor=SHADE, alpha=_SHADE_ALPHA, linewidth=0.0)


def draw_steps(axes: Axes, edges: NDArray[np.floating], bottom: float, heights: NDArray[np.floating]) -> None:
    """Draw a staircase of ``(n,)`` heights between ``(n + 1,)`` edges, on its zero line."""
    x, y = np.repeat(edges, 2), np.concatenate([[0.0], np.repeat(heights, 2), [0.0]]) + bottom
    _add_path(axes, [np.column_stack([x, y])], "gate", facecolor=SHADE, edgecolor=_MUTED, linewidth=0.2)
    zero = np.array([(edges[0], bottom), (edges[-1], bottom)])
    _add_path(axes, [zero], "gate-zero", edgecolor=_MUTED, linewidth=0.2)


def draw_watermark(axes: Axes, box: tuple[float, float, float, float]) -> None:
    """Write SYNTHETIC across the paper, behind the traces."""
    left, bottom, right, top = box
    size = min(0.13 * (right - left), 0.6 * (top - bottom))
    axes.text(
        (left + right) / 2,
        (bottom + top) / 2 - 0.36 * size,
        "SYNTHETIC",
        fontsize=size * POINTS_PER_MM,
        fontweight="bold",
        color=_MUTED,
        alpha=0.11,
        ha="center",
        va="baseline",
        gid="watermark",
        zorder=_IN_TURN,
    )


def draw_header(
    axes: Axes, width: float, height: float, title: str, synthetic: bool, entries: Sequence[tuple[str, str, str]]
) -> None:
    """Write the title, the SYNTHETIC tag on its right, and the legend below; a long title is written smaller."""
    room = width - (45.0 if synthetic else 10.0)
    write(axes, 5.0, height - 6.0, title, min(4.2, room / (0.75 * max(len(title), 1))), bold=True)
    if synthetic:
        write(axes, width - 5.0, height - 6.0, "SYNTHETIC", 4.2, colour=TWIN, bold=True, align="right")
    x = 5.0
    for kind, colour, words in entries:
        if kind == "line":
            axes.add_artist(Line2D((x, x + 7), (height - 11,) * 2, color=colour, linewidth=0.5 * POINTS_PER_MM))
        else:
            axes.add_artist(Rectangle((x, height - 12.5), 7, 3, facecolor=colour, alpha=0.5, linewidth=0))
        write(axes, x + 9, height - 12.0, words, 3.2, colour=_MUTED)
        x += 9 + 1.75 * len(words) + 8


def draw_footer(axes: Axes, width: float, notes: str) -> None:
    """Write how to read the paper, and what the picture is not for: on one line, or on a narrow page on two."""
    warning = "Research use, not a medical device"
    narrow = 1.7 * (len(notes) + len(warning)) > width
    write(axes, 5.0, 4.8 if narrow else 3.0, notes, 3.0, colour=_MUTED)
    write(axes, width - 5.0, 1.2 if narrow else 3.0, warning, 3.0, colour=_MUTED, align="right")


def _add_path(
    axes: Axes,
    pieces: Sequence[NDArray[np.floating]],
    gid: str,
    *,
    edgecolor: str = "none",
    facecolor: str = "none",
    linewidth: float,
    alpha: float | None = None,
) -> None:
    """Add polylines, each ``(n, 2)``, as one path: one element in the SVG."""
    codes = np.concatenate([[Path.MOVETO] + [Path.LINETO] * (len(piece) - 1) for piece in pieces])
    path = Path(np.concatenate(list(pieces)), codes.astype(np.uint8))
    patch = PathPatch(
        path,
        edgecolor=edgecolor,
        facecolor=facecolor,
        linewidth=linewidth * POINTS_PER_MM,
        alpha=alpha,
        clip_on=False,
        gid=gid,
        fill=facecolor != "none",
        joinstyle="miter",
        zorder=_IN_TURN,
    )
    axes.add_artist(patch)
