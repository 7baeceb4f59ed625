"""From one seed's rows to an experiment's: means over seeds, with an interval that holds patients and seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from simulations.experiments.results_file import Row

_NORMAL = 1.96


def over_seeds(rows: Sequence[Row]) -> list[Row]:
    """Average the rows of the same arm and metric.

    The half-widths of the result are the root of two squares: the mean half-width of the seeds' own intervals (another
    sample of patients), and 1.96 standard errors of the mean over seeds (another training).
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if not math.isnan(row.value):
            groups.setdefault((row.arm, row.metric), []).append(row)
    return [_mean(group) for group in groups.values()]


def _mean(group: list[Row]) -> Row:
    values = np.array([row.value for row in group])
    value, seeds = float(values.mean()), len(values)
    spread = _NORMAL * float(values.std(ddof=1)) / math.sqrt(seeds) if seeds > 1 else 0.0
    below = float(np.mean([row.value - row.low for row in group]))
    above = float(np.mean([row.high - row.value for row in group]))
    low, high = value - math.hypot(below, spread), value + math.hypot(above, spread)
    if min(row.low for row in group) >= 0.0:  # a rate, a count: no mean of them is negative
        low = max(low, 0.0)
    return Row(group[0].arm, group[0].metric, value, low, high, group[0].n, seeds)
