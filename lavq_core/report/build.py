"""From a run folder to ``report.html`` and ``figures/``.

The HTML is one file: style, pictures and the little script for the gallery's filter are inside, a content security
policy forbids every request, and nothing needs the script to be read. Values are escaped by the template engine,
pictures by the XML writer that made them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.plots import save_figure, svg_markup
from lavq_core.plots.curves import draw_bytes, draw_convergence, draw_reliability, draw_roc, themed_markup
from lavq_core.plots.files import save_svg
from lavq_core.report import audit_evidence, evidence
from lavq_core.report.gallery import DISEASES, Twin, choose, file_stem, stored_twins
from lavq_core.report.numbers import Metrics, moment
from lavq_core.runs.layout import RunFolder, write_atomic
from lavq_core.runs.site_curves import QUANTITIES

SUBGROUPS = {
    ("sex", "0"): "men",
    ("sex", "1"): "women",
    ("age", "<50"): "under 50",
    ("age", ">=75"): "75 and over",
}  # in PTB-XL's coding; others are named as they are
MOST_PICTURE_BYTES = 3_500_000  # of inline twins; leaves the file below 5 MB


def build_report(run: RunFolder) -> Path:
    """Write ``RUN/report.html`` and the pictures in ``RUN/figures``.

    A part of the run that is missing is named as "not run"; nothing is filled in for it.

    Returns:
        The path of the report.

    Raises:
        RunError: the run has no ``metrics.json``, or a file in the folder is damaged.
    """
    metrics = Metrics.read(run)
    context = _context(run, metrics) | {
        "figures": {name: _draw_curve(run, name, figure) for name, figure in _curves(run, metrics).items()},
        "cards": _draw_twins(run, choose(stored_twins(run))),
    }
    write_atomic(run.report, _environment().get_template("report.html.j2").render(context))
    return run.report


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["moment"] = moment
    return environment


def _context(run: RunFolder, metrics: Metrics) -> dict[str, Any]:
    config = run.config.read_text(encoding="utf-8") if run.config.is_file() else ""
    return {
        "m": metrics,
        "sites": metrics.sites(),
        "reliable": reliability_places(metrics),
        "classes": SUPERCLASSES,
        "disease_names": DISEASES,
        "attacks": audit_evidence.attacks(metrics),
        "links": audit_evidence.links(metrics),
        "threat_model": audit_evidence.threat_model(run),
        "senders": senders(metrics),
        "subgroup_names": SUBGROUPS,
        "quantities": QUANTITIES,
        "troubles": evidence.troubles(run),
        "has_events": run.events.is_file(),
        "data_reports": evidence.data_reports(run),
        "model": evidence.shared_model(run),
        "config": config,
    }


def _curves(run: RunFolder, metrics: Metrics) -> dict[str, Figure]:
    """Draw the curves that the run has data for, by file name."""
    figures = {}
    for quantity, words in QUANTITIES.items():
        curves = {site: curve for site in metrics.sites() if (curve := metrics.rounds(site, quantity))}
        if curves:
            figures[f"convergence-{quantity}"] = draw_convergence(curves, words)
    for number, (words, where) in enumerate(reliability_places(metrics).items()):
        figures[f"reliability-{number:02d}"] = draw_reliability(metrics.bins(where), words)
    down, up = ({s: float(metrics.values[f"bytes.site.{s}.{way}"]) for s in senders(metrics)} for way in ("down", "up"))
    if down:
        figures["bytes"] = draw_bytes(down, up)
    for name, attacks in audit_evidence.rocs(run).items():
        figures[name] = draw_roc(attacks, _lowest_rate(metrics), name)
    return figures


def senders(metrics: Metrics) -> list[str]:
    """Hospitals that ever answered the server."""
    return metrics.between("bytes.site.", ".down")


def reliability_places(metrics: Metrics) -> dict[str, str]:
    """Whose records have a reliability diagram, in words, and the part of the key that names them."""
    places = {"all hospitals": "pooled"} | {site: f"site.{site}" for site in metrics.sites()}
    return {words: where for words, where in places.items() if metrics.bin_names(where)}


def _lowest_rate(metrics: Metrics) -> float:
    """Left end of the ROC's axes: the decade of one false positive among the non-members, at least 1 %."""
    non_members = metrics.get("audit.non_members")
    if not isinstance(non_members, (int, float)) or non_members < 1:
        return 1e-3
    return 10.0 ** min(-2, math.floor(math.log10(1.0 / non_members)))


def _draw_twins(run: RunFolder, twins: list[Twin]) -> list[dict[str, Any]]:
    """Draw the gallery into ``figures/`` (SVG and PNG) and return its cards, as many as fit in the file."""
    for old in run.figures.glob("twin-*"):
        old.unlink()
    cards: list[dict[str, Any]] = []
    used = 0
    for number, twin in enumerate(twins, start=1):
        figure = twin.draw()
        picture = svg_markup(figure)
        used += len(picture)
        if used > MOST_PICTURE_BYTES:
            break
        stem = file_stem(twin, number)
        save_svg(picture, run.figures / f"{stem}.svg")
        save_figure(figure, run.figures / f"{stem}.png")
        cards.append({"twin": twin, "svg": Markup(picture), "stem": stem})
    return cards


def _draw_curve(run: RunFolder, name: str, figure: Figure) -> Markup:
    """Write a curve's file; in the page its ink follows the text colour."""
    save_figure(figure, run.figures / f"{name}.svg")
    return Markup(themed_markup(figure))
