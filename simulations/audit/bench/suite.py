"""The auditor's test bench: every planted case must be convicted, every sound one acquitted; all of them, repeated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulations.audit.bench import (
    planted_codebook,
    planted_detector,
    planted_privacy,
    planted_separator,
    planted_twins,
)
from simulations.audit.bench.case import Case, Outcome
from simulations.experiments.pool import each_seed
from simulations.experiments.results_file import Row

CASES: tuple[Case, ...] = (
    *planted_detector.CASES,
    *planted_privacy.CASES,
    *planted_codebook.CASES,
    *planted_twins.CASES,
    *planted_separator.CASES,
)


def run_bench(repeats: int | None, workers: int) -> list[Row]:
    """Play every case so often as it says, or ``repeats`` times.

    Returns:
        Rows by case: its figures (mean over the repeats; the interval holds all repeats' intervals), ``flagged`` (share
        of the repeats in which it was), and ``claimed_epsilon`` where something is claimed.
    """
    jobs = [(number, seed) for number, case in enumerate(CASES) for seed in range(repeats or case.repeats)]
    played = each_seed(_play, jobs, workers, "plays done")
    rows = []
    for number, case in enumerate(CASES):
        mine = [outcomes for (which, _), outcomes in zip(jobs, played, strict=True) if which == number]
        rows += _rows(case, mine)
    return rows


def _play(number: int, seed: int) -> Sequence[Outcome]:
    """Play one case in a process of the pool, which knows cases by their place."""
    return CASES[number].play(seed)


def _rows(case: Case, played: Sequence[Sequence[Outcome]]) -> list[Row]:
    times = len(played)
    rows = [
        Row(
            case.name,
            same[0].metric,
            float(np.mean([one.value for one in same])),
            min(one.low for one in same),
            max(one.high for one in same),
            same[0].n,
            times,
        )
        for same in zip(*played, strict=True)
    ]
    flagged = float(np.mean([outcomes[0].flagged for outcomes in played]))
    rows.append(Row(case.name, "flagged", flagged, flagged, flagged, times, times))
    if case.claimed_epsilon is not None:
        claim = case.claimed_epsilon
        rows.append(Row(case.name, "claimed_epsilon", claim, claim, claim, times, times))
    return rows
