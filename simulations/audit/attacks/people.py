"""The run's patients in the beat frame: what separator, codebook and editor saw of members, and never of the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lavq_core.data.database import Database
from lavq_core.models.twins import Patients
from lavq_core.settings import Config
from lavq_core.training.guided import GuidedBeats
from lavq_core.training.site_data import SiteData
from simulations.audit.cohort import Cohort

TWINS = 256
"""Twins that an attacker has of one editor."""


@dataclass(frozen=True)
class People:
    """Records whose beats were found, of P patients; patient p is row p of ``Cohort.patients``."""

    beats: GuidedBeats  # (n, ...) with labels and reports
    owner: np.ndarray  # (n,) int64, patient of each record, 0 to P - 1
    positions: np.ndarray  # (n,) int64, rows of the database
    count: int  # P, those without a usable record included

    @classmethod
    def of_cohort(cls, database: Database, config: Config, cohort: Cohort) -> People:
        """Take the records that ``Cohort.of_run`` scores: a member's of the training folds, else those of others."""
        everybody = np.searchsorted(cohort.patients, database.table["patient_id"].to_numpy())  # (records,)
        trained_on = database.table["strat_fold"].isin(config.data.train_folds).to_numpy()
        scored = np.flatnonzero(trained_on == cohort.member[everybody])
        return cls.of_records(database, config, scored, everybody[scored], len(cohort))

    @classmethod
    def of_records(
        cls, database: Database, config: Config, positions: np.ndarray, owner: np.ndarray, count: int
    ) -> People:
        """Take some records of some patients, as a site would train on them.

        Args:
            database: holds the records.
            config: of the run, for the reports' encoding and the tokens.
            positions: ``(m,)`` rows of the database; those without enough beats of one shape are left out.
            owner: ``(m,)`` int64 whose they are, below ``count``.
            count: P.
        """
        found = database.beats.found()[positions]
        data = SiteData("audit", database, positions, config)
        return cls(data.guided(positions[found]), owner[found].astype(np.int64), positions[found], count)

    def take(self, rows: Tensor) -> People:
        """Keep some records, of the same P patients; ``rows (m,)`` int64."""
        kept = rows.numpy()
        return People(self.beats.take(rows), self.owner[kept], self.positions[kept], self.count)

    def means(self, values: np.ndarray) -> np.ndarray:
        """Average each patient's records: ``(n,)`` to ``(P,)`` float64; NaN is left out, and says nobody was scored."""
        known = ~np.isnan(values)
        sums = np.bincount(self.owner[known], weights=values[known], minlength=self.count)
        counts = np.bincount(self.owner[known], minlength=self.count)
        return np.divide(sums, counts, out=np.full(self.count, np.nan), where=counts > 0)

    def largest(self, values: np.ndarray) -> np.ndarray:
        """Take the largest of each patient's records: ``(n,)`` to ``(P,)`` float64; NaN as in ``means``."""
        known = ~np.isnan(values)
        most = np.full(self.count, -np.inf)
        np.maximum.at(most, self.owner[known], values[known])
        return np.where(np.isfinite(most), most, np.nan)


@dataclass(frozen=True)
class BeatFrame:
    """The cohort as codebook and twins know it."""

    people: People  # everybody's records
    content: Patients  # healthy ones that twins are made of, one of a patient
    rows: np.ndarray  # (q,) int64, where those are among ``people``

    @classmethod
    def of_cohort(cls, database: Database, config: Config, cohort: Cohort) -> BeatFrame:
        """Take everybody, and of the healthy the first ``TWINS`` by number."""
        people = People.of_cohort(database, config, cohort)
        healthy = people.beats.norm_only().numpy()
        _, first = np.unique(people.owner[healthy], return_index=True)
        rows = healthy[first[:TWINS]]
        content = SiteData("audit", database, people.positions, config).patients(people.positions[rows])
        return cls(people, content, rows)
