"""What the live view's page asks, again and again: where the run stands."""

from __future__ import annotations

import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.applications import Starlette

from lavq_core.plots.curves import draw_convergence, themed_markup
from lavq_core.report.evidence import troubles
from lavq_core.report.numbers import moment, natural, size
from lavq_core.runs.layout import RunFolder
from lavq_core.runs.site_curves import QUANTITIES, Curves, site_curves
from lavq_core.runs.status import run_status
from lavq_core.settings import Config
from lavq_core.web.local_page import local_app
from server.status_view import budget, heading

_PAGE = Path(__file__).parent / "page"


class Watch:
    """One run. Only files of its folder are read; no site is asked, nothing is written."""

    def __init__(self, run: RunFolder, config: Config) -> None:
        self._run, self._config = run, config
        self._drawn: tuple[Curves, dict[str, str]] = ({}, {})
        self._one_at_a_time = threading.Lock()  # matplotlib's settings are global

    def app(self, token: str) -> Starlette:
        """Build the application of the page."""
        return local_app(_PAGE, {"status": (self.status, 1_000)}, token)

    def status(self, _: dict[str, Any]) -> dict[str, Any]:
        """Say where the run stands now."""
        run, status = self._run, run_status(self._run)
        rounds = status.rounds or self._config.federation.rounds
        return {
            "name": run.root.name,
            "state": status.state,
            "heading": heading(status, run.root.name, rounds, str(run.root)),
            "rounds": rounds,
            "done": status.done,
            "budget": budget(self._config, status),
            "sites": [
                asdict(site) | {"bytes_down": size(site.bytes_down), "bytes_up": size(site.bytes_up)}
                for _, site in sorted(status.sites.items(), key=lambda item: natural(item[0]))
            ],
            "curves": self._curves(),
            "troubles": [asdict(trouble) | {"time": moment(trouble.time)} for trouble in troubles(run)[::-1]],
        }

    def _curves(self) -> dict[str, str]:
        """Pictures of the losses by their name in words, drawn again only when there is something new."""
        names = sorted((site.root.name for site in self._run.sites()), key=natural)
        # Every site from the start, so that none changes its colour when another one answers.
        found = site_curves(self._run)
        curves = {q: {name: by_site.get(name, []) for name in names} for q, by_site in found.items()}
        with self._one_at_a_time:
            if curves != self._drawn[0]:
                drawn = {QUANTITIES[q]: themed_markup(draw_convergence(c, QUANTITIES[q])) for q, c in curves.items()}
                self._drawn = (curves, drawn)
            return self._drawn[1]
