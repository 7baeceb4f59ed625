"""The curves of a run: convergence of each site, bytes on the wire, and the audit's ROC.

Drawn without a background: ink stands for the page's text colour (the report swaps it for ``currentColor``), and the
series' colours keep a contrast of 3:1 on white and on near-black, with a marker and a dash each, so they can be told
apart without colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from lavq_core.plots.files import MM_PER_INCH, POINTS_PER_MM, svg_markup

INK = "#111111"
SERIES = ("#2e7dc0", "#cf5a18", "#16896a", "#a85a9e", "#98781a", "#7a7f87")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", "--", "-.", ":", (0, (6, 1.5)), (0, (1.5, 1)))
_WIDTH, _HEIGHT, _LEFT = 115.0, 74.0, 20.0  # mm: of a panel, and of its left margin
_TEXT = 3.5  # mm
_LETTER, _LINE = 1.75, 5.0  # mm, of a letter and of a line of names at that size
_KEY_WIDTH = 14.0  # mm, of a name's line and the room around it
_LONGEST = 34  # letters of a name

Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class RocCurve:
    """An attack at every threshold: rates, and the pointwise 95 % interval of the true-positive rate."""

    fpr: Sequence[float]
    tpr: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def draw_convergence(curves: Mapping[str, Curve], quantity: str) -> Figure:
    """Draw one quantity of every site over the rounds.

    Args:
        curves: ``{site: [(round, value), ...]}``.
        quantity: what is drawn, with its unit.
    """
    figure, axes = _panel(f"{quantity} of each site over the rounds", "round", quantity)
    for index, (site, curve) in enumerate(curves.items()):
        rounds, values = np.array(curve, dtype=float).reshape(-1, 2).T
        style = index % len(SERIES)
        axes.plot(
            rounds,
            values,
            color=SERIES[style],
            marker=_MARKERS[style],
            linestyle=_DASHES[style],
            markersize=1.7 * POINTS_PER_MM,
            linewidth=0.5 * POINTS_PER_MM,
            clip_on=False,
            label=_plain(site),
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _legend(figure, axes)
    return figure


def draw_roc(curves: Mapping[str, RocCurve], lowest: float, name: str = "roc") -> Figure:
    """Draw membership-inference attacks on logarithmic axes, where low false-positive rates can be seen.

    After Carlini et al. 2022, *Membership Inference Attacks From First Principles* (section II-C).

    Args:
        curves: by attack.
        lowest: left end of both axes; below one false positive among the non-members nothing can be measured.
        name: what the lines' names in the SVG begin with, as those of a page must differ.
    """
    figure, axes = _panel(
        f"{name}: membership-inference attacks, logarithmic axes", "false-positive rate", "true-positive rate", 100.0
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(lowest, 1.0)
    axes.set_ylim(lowest, 1.0)
    axes.plot(
        [lowest, 1.0],
        [lowest, 1.0],
        color=SERIES[-1],
        linewidth=0.35 * POINTS_PER_MM,
        label="chance",
        gid=f"{name}-chance",
    )
    if lowest < 0.01:
        axes.axvline(0.01, color=SERIES[-1], linewidth=0.25 * POINTS_PER_MM, linestyle=":", gid=f"{name}-one-per-cent")
    for index, (attack, curve) in enumerate(curves.items()):
        rates, colour = np.maximum(curve.fpr, lowest), SERIES[index % (len(SERIES) - 1)]  # the last is chance's
        axes.fill_between(
            rates, np.maximum(curve.low, lowest), np.maximum(curve.high, lowest), step="post", color=colour, alpha=0.12
        )
        axes.step(
            rates,
            np.maximum(curve.tpr, lowest),
            where="post",
            color=colour,
            linestyle=_DASHES[index % len(_DASHES)],
            linewidth=0.55 * POINTS_PER_MM,
            label=_plain(attack),
            gid=f"{name}-{index}",
        )
    decades = [10.0**power for power in range(int(np.ceil(np.log10(lowest) - 1e-9)), 1)]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(decades))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}\u00a0%"))
    _legend(figure, axes)
    return figure


def draw_reliability(bins: Sequence[tuple[float, float, float, float]], where: str) -> Figure:
    """Draw what was said against what happened; on the grey line both are the same.

    Args:
        bins: ``(probability said, share that happened, low, high)`` by probability.
        where: whose records, for the title.
    """
    figure, axes = _panel(f"reliability diagram: {where}", "probability said", "share with the disease", 100.0)
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(0.0, 1.0)
    axes.plot([0, 1], [0, 1], color=SERIES[-1], linewidth=0.35 * POINTS_PER_MM, label="said = happened", gid="perfect")
    said, happened, low, high = np.array(bins, dtype=float).reshape(-1, 4).T
    axes.vlines(said, low, high, color=SERIES[0], linewidth=0.4 * POINTS_PER_MM, label="95 % interval", gid="bars")
    axes.plot(
        said,
        happened,
        color=SERIES[0],
        marker=_MARKERS[0],
        markersize=1.7 * POINTS_PER_MM,
        linewidth=0.5 * POINTS_PER_MM,
        clip_on=False,
        label="seen",
        gid="reliability",
    )
    _legend(figure, axes)
    return figure


def draw_bytes(down: Mapping[str, float], up: Mapping[str, float]) -> Figure:
    """Draw what every site received and sent over the whole run.

    Args:
        down: ``{site: bytes}`` from the server to the site.
        up: ``{site: bytes}`` from the site to the server.
    """
    sites = list(down)
    names = [_plain(site) for site in sites]
    left = max(_LEFT, 3.0 + _LETTER * max(map(len, names), default=0))
    figure, axes = _panel("bytes that each site received and sent", "megabytes", "", 22.0 + 11.0 * len(sites), left)
    places = np.arange(len(sites), dtype=float)
    bars: tuple[tuple[str, Mapping[str, float], float, str], ...] = (
        ("received", down, -0.19, SERIES[0]),
        ("sent", up, 0.19, SERIES[1]),
    )
    for label, values, shift, colour in bars:
        axes.barh(places + shift, [values[site] / 1e6 for site in sites], height=0.34, color=colour, label=label)
    axes.set_yticks(places, names)
    axes.set_ylim(len(sites) - 0.5, -0.5)
    axes.spines["left"].set_visible(False)
    _legend(figure, axes)
    return figure


def themed_markup(figure: Figure) -> str:
    """Return a curve as ``<svg>`` whose ink follows the page's text colour, which is light on a dark page."""
    return svg_markup(figure).replace(INK, "currentColor")


def _panel(title: str, x_label: str, y_label: str, height: float = _HEIGHT, left: float = _LEFT) -> tuple[Figure, Axes]:
    """Make an empty panel; height and left margin in mm, the other margins are the same in every picture."""
    figure = Figure(figsize=(_WIDTH / MM_PER_INCH, height / MM_PER_INCH))
    figure.set_label(title)
    figure.patch.set_visible(False)
    bottom, right, top = 12.0, 7.0, 9.0
    axes = figure.add_axes(
        (left / _WIDTH, bottom / height, (_WIDTH - left - right) / _WIDTH, (height - bottom - top) / height)
    )
    axes.patch.set_visible(False)
    size = _TEXT * POINTS_PER_MM
    axes.set_xlabel(x_label, fontsize=size, color=INK)
    axes.set_ylabel(y_label, fontsize=size, color=INK)
    axes.tick_params(labelsize=size, colors=INK, length=2, width=0.5)
    axes.grid(color=SERIES[-1], alpha=0.25, linewidth=0.4)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
        spine.set_linewidth(0.5)
    return figure, axes


def _legend(figure: Figure, axes: Axes) -> None:
    """Names above the panel, in as many lines as they need; the figure grows by what is more than one."""
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    widths = [_KEY_WIDTH + _LETTER * len(label) for label in labels]
    columns = len(labels) if sum(widths) <= _WIDTH else max(1, int(_WIDTH // max(widths)))
    lines = -(-len(labels) // columns)
    low, high = figure.get_figheight(), figure.get_figheight() + (lines - 1) * _LINE / MM_PER_INCH
    left, bottom, width, height = axes.get_position().bounds
    figure.set_figheight(high)
    axes.set_position((left, bottom * low / high, width, height * low / high))
    figure.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(0.02, 1.0),
        ncols=columns,
        fontsize=_TEXT * POINTS_PER_MM,
        labelcolor=INK,
        frameon=False,
        handlelength=2.2,
        columnspacing=1.2,
        borderaxespad=0.2,
        labelspacing=0.2,
    )


def _plain(name: str) -> str:
    """Keep a name from being read as a formula, and short enough for a legend."""
    short = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
    # matplotlib hides legend entries that begin with an underscore and reads dollar signs as mathematics.
    return (" " + short if short.startswith("_") else short).replace("$", r"\$")
