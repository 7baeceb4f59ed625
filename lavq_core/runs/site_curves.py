"""Losses and scores by round, where the hospitals' own folders lie beside the server's (in a simulation)."""

from __future__ import annotations

import math

from lavq_core.runs.events import read_events, standing_events
from lavq_core.runs.layout import RunFolder

QUANTITIES = {
    "macro_auc": "validation macro AUC",
    "detector_loss": "detector loss",
    "separator_loss": "separator loss",
    "reconstruction": "reconstruction loss",
}
_EVENTS = ("round-trained", "round-evaluated")

Curves = dict[str, dict[str, list[tuple[float, float]]]]
"""``{quantity: {site: [(round, value), ...]}}``; a quantity that no site has logged is left out."""


def site_curves(run: RunFolder) -> Curves:
    """Read what the sites of this folder have logged so far, in the order of ``QUANTITIES``."""
    curves: Curves = {quantity: {} for quantity in QUANTITIES}
    for site in run.sites():
        for event in standing_events(read_events(site.events)):
            if event.get("event") not in _EVENTS:
                continue
            for quantity, by_site in curves.items():
                value = event.get(quantity)
                if isinstance(value, (int, float)) and math.isfinite(value):
                    by_site.setdefault(site.root.name, []).append((float(event["round"]), float(value)))
    return {quantity: by_site for quantity, by_site in curves.items() if by_site}
