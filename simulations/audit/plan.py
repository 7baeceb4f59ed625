"""What an audit could show at some sizes, before anything is trained, and how long it would take here.

Two ceilings. A *perfect* attack guesses every membership: no audit of so many people can show more. The *best attack
there is* on a Gaussian mechanism that really has the claimed epsilon is limited by the noise: what it can be expected
to show is the most that an audit of sound training comes to, and how far it stays below the claim is what the sizes
cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.optimize import brentq
from scipy.special import ndtr

from lavq_core.config import compose, load_config
from lavq_core.runs.events import read_events, standing_events
from lavq_core.runs.layout import RunFolder
from lavq_core.settings import Config
from lavq_core.training.local_steps import rounds_before
from simulations.audit.cohort import Cohort
from simulations.audit.measure import CONFIDENCE
from simulations.audit.privacy.fdp import gaussian_epsilon
from simulations.audit.privacy.one_run import SHARES, Guesses, epsilon_lower_bound
from simulations.audit.shadows.pool import cores
from simulations.audit.verdict import worth_trying

SIZES = (30, 100, 300, 1_000, 3_000, 10_000)
CLAIMS = (1.0, 3.0, 8.0)


@dataclass(frozen=True)
class Ceiling:
    """What an audit with some number of people, or canaries, can show at 95 % confidence."""

    people: int
    perfect: float  # epsilon
    gaussian: dict[float, float]  # by claimed epsilon: expected of the best attack


def ceiling(people: int, delta: float) -> Ceiling:
    """Compute both ceilings for so many people whose memberships are drawn by coins."""
    alpha = (1.0 - CONFIDENCE) / len(SHARES)
    perfect = epsilon_lower_bound(Guesses(people, people, people), delta, 1.0 - alpha)
    return Ceiling(people, perfect, {claim: _gaussian(people, claim, delta, alpha) for claim in CLAIMS})


def _gaussian(people: int, claim: float, delta: float, alpha: float) -> float:
    """Bound that the likelihood ratio's guesses support, at their expected numbers: scores N(0, 1) and N(mu, 1)."""
    mu = float(brentq(lambda m: gaussian_epsilon(m, delta) - claim, 1e-3, 8.0))
    return max(_expected(people, share, mu, delta, alpha) for share in SHARES)


def _expected(people: int, share: float, mu: float, delta: float, alpha: float) -> float:
    """The bound where a share of the people is guessed, half of them "took part", and as many are right as expected."""
    # Above the threshold lies share / 2 of everybody; by symmetry below its mirror image as many.
    threshold = brentq(lambda t: ndtr(-t) + ndtr(mu - t) - share, -10.0, mu + 10.0)
    right = float(ndtr(mu - threshold) / (ndtr(-threshold) + ndtr(mu - threshold)))
    made = 2 * max(1, round(share * people / 2))
    return epsilon_lower_bound(Guesses(people, made, int(np.floor(right * made))), delta, 1.0 - alpha)


def seconds_per_shadow(run: RunFolder, config: Config) -> float | None:
    """Estimate from the run's own event logs: its sites' rounds, halved because a shadow has half of the patients.

    Rounds in which separators trained are left out unless the shadows train them; None where no log is here.
    """
    alone = rounds_before(config.separator_training.after, config.federation.rounds)
    whole = config.audit.whole or config.separator_training.steps == 0 or config.privacy.epsilon > 0
    spent = [
        float(event["seconds"])
        for site in run.sites()
        for event in standing_events(read_events(site.events))
        if event["event"] == "round-trained" and (whole or event["round"] <= max(1, alone))
    ]
    if not spent:
        return None
    return 0.5 * float(np.mean(spent)) * config.federation.sites * config.federation.rounds


def show_plan(run: RunFolder | None, console: Console, shadows: int | None = None, workers: int | None = None) -> None:
    """Print what sizes could show, and for a run its own size, its claim and the time."""
    config = load_config(run.config) if run else compose()
    delta = config.privacy.delta
    table = Table("people or canaries", "perfect attack", *(f"best attack, epsilon {claim:g}" for claim in CLAIMS))
    sizes = list(SIZES)
    if run is not None:
        from lavq_core.data.database import Database

        cohort = Cohort.of_run(Database.configured(config.data), config)
        sizes = sorted({*sizes, len(cohort)})
    for size in sizes:
        found = ceiling(size, delta)
        mark = " (this run)" if run is not None and size == len(cohort) else ""
        table.add_row(f"{size:,}{mark}", f"{found.perfect:.2f}", *(f"{found.gaussian[claim]:.2f}" for claim in CLAIMS))
    console.print(table)
    console.print(f"lower bounds of epsilon at delta {delta:g} that could be shown at {CONFIDENCE:.0%} confidence")
    if run is not None:
        _show_run(run, config, cohort, console, shadows or config.audit.shadows, workers or cores())


def _show_run(run: RunFolder, config: Config, cohort: Cohort, console: Console, shadows: int, workers: int) -> None:
    members, outsiders = int(cohort.member.sum()), int((~cohort.member).sum())
    console.print(f"this run: {members} members, {outsiders} non-members; the lowest false-positive rate that can be "
                  f"seen is {1 / max(1, outsiders):.2%}", highlight=False)  # fmt: skip
    if not worth_trying(members, outsiders):
        console.print("with fewer than 30 of either kind nothing can be shown: the verdict would be no power")
        return
    claim, most = config.privacy.epsilon, ceiling(len(cohort), config.privacy.delta).perfect
    if claim > 0:
        can = "could contradict" if most > claim else "cannot contradict"
        console.print(f"it claims epsilon {claim:g}: an attack on these people {can} it", highlight=False)
    seconds = seconds_per_shadow(run, config)
    if seconds is None:
        console.print("how long it takes is not known: this run's sites have left no log here")
        return
    total = seconds * -(-shadows // workers)
    console.print(
        f"{shadows} shadows, {workers} at a time, about {seconds:.0f} s each: {total / 60:.1f} minutes", highlight=False
    )
