"""A run's status in words and tables, for ``lavq status`` and ``lavq watch``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lavq_core.report.numbers import natural, size
from lavq_core.runs.site_curves import QUANTITIES, Curves
from lavq_core.runs.status import RunStatus
from lavq_core.settings import Config

if TYPE_CHECKING:
    from rich.table import Table

    from lavq_core.report.evidence import Trouble


def heading(status: RunStatus, name: str, rounds: int, folder: str) -> list[str]:
    """Name the run, its state and its rounds, and what can be done."""
    words = [f"{name}: {status.state}, {status.done} of {status.rounds or rounds} rounds done"]
    if status.current:
        words.append(f"round {status.current} going on")
    if status.resumed:
        words.append(f"resumed {status.resumed} time(s)")
    lines = [", ".join(words)]
    if status.reason:
        lines.append(f"reason: {status.reason}")
    if status.state in ("failed", "broken off"):
        lines.append(f"to go on: lavq run --resume {folder} (flwr run: its settings and run.resume=true)")
    return lines


def budget(config: Config, status: RunStatus) -> str:
    """Say what the run may spend of its sites' privacy budgets, and what each has spent."""
    privacy = config.privacy
    if privacy.epsilon == 0:
        return "privacy budget: none: this run trains without differential privacy and claims none"
    spent = "; ".join(f"{name} {site.epsilon:.3f}" for name, site in sorted(status.sites.items()) if site.epsilon)
    return f"privacy budget: epsilon {privacy.epsilon:g} at delta {privacy.delta:g}, spent: {spent or 'nothing yet'}"


def site_table(status: RunStatus) -> Table:
    """One row a site: what it does, its last answer, its sums."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)  # fits a terminal of 80 letters
    for title in ("site", "state"):
        table.add_column(title, no_wrap=True)
    table.add_column("last answer", overflow="fold")
    for title in ("rounds", "failures", "bytes\ndown", "bytes\nup", "seconds"):
        table.add_column(title, justify="right", no_wrap=True)
    for name in sorted(status.sites, key=natural):
        site = status.sites[name]
        sums = (f"{site.rounds:,}", f"{site.failures:,}", size(site.bytes_down), size(site.bytes_up))
        table.add_row(escape(name), site.state, escape(site.last), *sums, f"{site.seconds:,.1f}")
    return table


def loss_table(curves: Curves) -> Table:
    """One row a site: its newest value of every quantity, and the round that it has come to."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table("site", "up to round", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for quantity in curves:
        words = QUANTITIES[quantity]
        table.add_column(words, justify="right", min_width=max(map(len, words.split())))
    for site in sorted({site for by_site in curves.values() for site in by_site}, key=natural):
        newest = [by_site[site][-1] if site in by_site else None for by_site in curves.values()]
        rounds = max(at[0] for at in newest if at is not None)
        table.add_row(escape(site), f"{rounds:.0f}", *("" if at is None else f"{at[1]:.3f}" for at in newest))
    return table


def trouble_lines(found: Sequence[Trouble]) -> list[str]:
    """Write what went wrong, one line each."""
    return [" ".join(filter(None, (f"round {t.round}:" if t.round.isdigit() else "", t.site, t.status))) for t in found]
