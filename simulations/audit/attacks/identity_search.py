"""Looking for a person among all: whose record is nearest to a twin, and who is most like somebody (the control)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from simulations.audit.attacks.people import People
from simulations.audit.measure import Proportion

_CLASS = 12.0  # standard deviations of a covariate that another superclass counts for, when others are matched


@dataclass(frozen=True)
class Search:
    """How often the person looked for was found, among so many."""

    among: int  # N people, one record each
    top1: Proportion  # nearer than everybody else; a tie is a miss
    top10: Proportion  # among the ten nearest

    @property
    def chance1(self) -> float:
        """Rate of ``top1`` of somebody who guesses."""
        return 1.0 / self.among

    @property
    def chance10(self) -> float:
        """Rate of ``top10`` of somebody who guesses."""
        return min(1.0, 10.0 / self.among)


def search(distance: np.ndarray, own: np.ndarray, barred: np.ndarray | None = None) -> Search:
    """Count how often each query's own column is the nearest, or among the ten nearest.

    Args:
        distance: ``(q, g)``, from queries to people.
        own: ``(q,)`` int64 column of the one looked for.
        barred: ``(q,)`` int64 column that is left out of the row's gallery; none when left out.
    """
    rows = np.arange(len(distance))
    mine = distance[rows, own]
    as_near = distance <= mine[:, None]  # the own one is as near as itself
    among = distance.shape[1]
    if barred is not None:
        as_near[rows, barred] = False
        among -= 1
    ahead = as_near.sum(axis=1) - 1  # (q,)
    hits1, hits10 = int((ahead == 0).sum()), int((ahead < 10).sum())
    return Search(among, Proportion(hits1, len(rows)), Proportion(hits10, len(rows)))


def matched_others(rows: np.ndarray, people: People) -> np.ndarray:
    """Find for each record the most alike one of another person among them: places in ``rows``, ``(q,)`` int64."""
    beats, whose = people.beats, people.owner[rows]
    a, y = beats.covariates.numpy()[rows], beats.y.numpy()[rows]
    cost = cdist(a, a, "cityblock") + _CLASS * cdist(y, y, "cityblock")
    cost[whose[:, None] == whose[None]] = np.inf
    return np.asarray(cost.argmin(axis=1))


def beat_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean absolute difference of median beats ``(n, 8, W)`` and ``(m, 8, W)``: ``(n, m)`` mV; offsets do not count.

    Absolute and not squared: where a twin was not edited it is its patient, and an edit should not drown that.
    """

    def flat(beats: np.ndarray) -> np.ndarray:
        beats = np.asarray(beats, dtype=np.float64)
        return np.asarray((beats - np.median(beats, axis=-1, keepdims=True)).reshape(len(beats), -1))

    return np.asarray(cdist(flat(a), flat(b), "cityblock") / a[0].size)


def gallery(first: np.ndarray, people: People) -> np.ndarray:
    """One record of each person, ascending by person: the given ``first`` rows, of anybody else the first there is."""
    everybody, chosen = np.unique(people.owner, return_index=True)
    chosen[np.searchsorted(everybody, people.owner[first])] = first
    return np.asarray(chosen)
