"""The evaluation plan: which healthy patient gets the twin of which request.

Every request is a real abnormal record's own set of diagnostic statements, so that twins as a whole have the classes,
statements and combinations of real patients, and each twin has a real record to be held against. The patient is
healthy, held out like the record, and as like its owner in heart rate, hospital, age and sex as can be had: what then
tells twins from real records is the edit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES, superclass_of
from lavq_core.errors import DataError
from lavq_core.signals.beats import Beats

HELD_OUT = (9, 10)
"""Stratification folds of the patients who are judged; nobody in them trains a generator or a judge."""

RHYTHMS = frozenset(
    ("AFIB", "AFLT", "PACE", "SVARR", "PSVT", "BIGU", "TRIGU", "PVC", "PAC", "PRC(S)", "SVTAC")
)  # fmt: skip
"""Statements about a rhythm, which a twin cannot show: it keeps its patient's."""

_RR = 0.1  # difference of log RR intervals that costs 1
_SITE = 6.0  # cost of another recording site
_AGE = 15.0  # years that cost 1
_SEX = 1.0  # cost of the other sex
_USED = 0.7  # cost of every twin that the patient is to have already
_CLASS = 12.0  # cost of a superclass too many or too few
_USUAL_AGE = 60.0  # years, in place of an unknown age


@dataclass(frozen=True)
class Plan:
    """Request i: make ``patient[i]`` the twin that has what ``real[i]`` has."""

    real: np.ndarray  # (n,) int64 positions of real abnormal records, ascending, each once
    patient: np.ndarray  # (n,) int64 positions of healthy records; several requests may share one
    labels: np.ndarray  # (n, 5) float32 of 0 and 1, superclasses of the request
    statements: tuple[tuple[str, ...], ...]  # n requests: diagnostic statements, without NORM
    healthy: np.ndarray  # (g,) int64 positions, all who could be chosen: one record of each healthy patient

    def __len__(self) -> int:
        return len(self.real)

    def commonest(self, count: int) -> tuple[str, ...]:
        """Return the statements requested most often, commonest first, equally common ones by name."""
        found = Counter(code for codes in self.statements for code in codes)
        return tuple(sorted(found, key=lambda code: (-found[code], code))[:count])

    def has(self, statement: str) -> np.ndarray:
        """Tell which requests contain a statement: (n,) bool."""
        return np.array([statement in codes for codes in self.statements], dtype=bool)


def make_plan(database: Database, beats: Beats, seed: int = 0, folds: Sequence[int] = HELD_OUT) -> Plan:
    """Match every real abnormal record of the held-out folds with a healthy patient of them.

    Records are served in random order, each by the patient who costs least; nobody gets a request of their own.

    Args:
        database: its table, labels and statements are read, no signal.
        beats: of all its records, in its order; ``rr`` and ``found`` are read.
        seed: of the order.
        folds: held out.

    Raises:
        DataError: the folds hold no usable abnormal record, or too few healthy patients to serve one.
    """
    usable = database.table["strat_fold"].isin(folds).to_numpy() & beats.found()
    healthy = _healthy(database, usable)
    real = np.flatnonzero(usable & _abnormal(database))
    patients = database.table["patient_id"].to_numpy()
    if len(real) == 0 or len(np.unique(patients[healthy])) < 2:
        raise DataError(
            f"folds {', '.join(map(str, folds))} of {database.folder} hold {len(real)} abnormal records in sinus "
            f"rhythm and {len(healthy)} healthy patients: judging twins takes one and two at least"
        )
    chosen = _serve(_cost(database, beats.rr, real, healthy), _USED, seed)
    abnormal = {code for code, name in superclass_of(database.statements).items() if name != SUPERCLASSES[0]}
    codes = [tuple(code for code in found if code in abnormal) for found in database.table["statements"].iloc[real]]
    labels = database.labels[real].copy()
    return Plan(real, healthy[chosen], labels, tuple(codes), healthy)


def other_reals(database: Database, beats: Beats, plan: Plan, folds: Sequence[int], seed: int = 0) -> np.ndarray:
    """Find another patient's real record of the same classes for every request: what a perfect generator would make.

    Like a twin it is as near to the plan's record in heart rate, hospital, age and sex as can be had. No record is
    taken twice.

    Args:
        database: its table and labels are read, no signal.
        beats: of all its records.
        plan: the requests.
        folds: where to look; they share no patient with the plan and train no judge.
        seed: of the order in which requests are served.

    Returns:
        ``(n,)`` int64 positions.

    Raises:
        DataError: the folds hold fewer abnormal records than there are requests.
    """
    usable = database.table["strat_fold"].isin(folds).to_numpy() & beats.found()
    found = np.flatnonzero(usable & _abnormal(database))
    if len(found) < len(plan):
        raise DataError(
            f"folds {', '.join(map(str, folds))} of {database.folder} hold {len(found)} abnormal records in sinus "
            f"rhythm, and the plan has {len(plan)} requests: name more folds"
        )
    wrong = np.abs(plan.labels[:, None] - database.labels[found]).sum(axis=-1)  # (n, m) classes
    return found[_serve(_cost(database, beats.rr, plan.real, found) + _CLASS * wrong, np.inf, seed)]


def _serve(cost: np.ndarray, used: float, seed: int) -> np.ndarray:
    """Give each row of ``(n, g)`` its cheapest column, in random order; a use adds ``used`` to a column: ``(n,)``."""
    chosen, cost = np.zeros(len(cost), dtype=np.int64), cost.copy()
    for row in np.random.default_rng(seed).permutation(len(cost)):
        chosen[row] = np.argmin(cost[row])
        cost[:, chosen[row]] += used
    return chosen


def _healthy(database: Database, usable: np.ndarray) -> np.ndarray:
    """First usable NORM-only record of each patient, in table order."""
    rows = np.flatnonzero(usable & database.norm_only())
    _, first = np.unique(database.table["patient_id"].to_numpy()[rows], return_index=True)
    return rows[np.sort(first)]


def _abnormal(database: Database) -> np.ndarray:
    """Records with an abnormal superclass, without NORM, in a rhythm that a twin can have: (n,) bool."""
    sick = (database.labels[:, 0] == 0) & (database.labels[:, 1:].sum(axis=1) > 0)
    sinus = [RHYTHMS.isdisjoint(codes) for codes in database.table["statements"]]
    return np.asarray(sick & np.array(sinus, dtype=bool))


def _cost(database: Database, rr: np.ndarray, real: np.ndarray, healthy: np.ndarray) -> np.ndarray:
    """How ill each healthy record suits each real one, (n, g); infinite between records of one patient."""
    columns = database.table[["patient_id", "site", "age", "sex"]].fillna({"age": _USUAL_AGE})
    a, b = columns.iloc[real], columns.iloc[healthy]

    def differs(name: str) -> np.ndarray:
        return a[name].to_numpy()[:, None] != b[name].to_numpy()[None]  # (n, g) bool

    pace = np.abs(np.log(rr[real].astype(np.float64))[:, None] - np.log(rr[healthy].astype(np.float64))) / _RR
    age = np.abs(a["age"].to_numpy()[:, None] - b["age"].to_numpy()) / _AGE
    cost = pace + _SITE * differs("site") + age + _SEX * differs("sex")
    return np.asarray(np.where(differs("patient_id"), cost, np.inf))
