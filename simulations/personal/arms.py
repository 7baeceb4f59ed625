"""What each arm's detector is fine-tuned on, for every person with the same steps, labels and augmentation.

=================  =====================================================================================================
``population``     nothing: the population's detector, trained without any of these people
``own``            twins of the person's reference as diseases, the reference as NORM: the product
``matched-other``  the same of another healthy person of the same sex, site and age where there is one: their twins and
                   their reference, so that the detector is somebody else's personal one
``noisy-copy``     the reference with white noise in the twins' place, under their labels and as far from the reference
                   as they are in each lead: more training of any kind
``real-others``    others' real ECGs with these diseases in the twins' place, the reference as NORM: no generator at all
=================  =====================================================================================================

Others and their ECGs come from the validation and test folds, in which nobody was trained on either: an arm must not be
better or worse because its ECGs were seen before.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import DataError
from lavq_core.models.prior import available_diseases, draw_statements
from lavq_core.models.twins import Patients, request_twins
from lavq_core.text.statements import named
from lavq_core.training.detector_training import LabelledEcgs
from lavq_core.training.personal import personal_examples
from lavq_core.training.site_data import SiteData
from simulations.experiments.generators import Generator
from simulations.personal.cohort import check_withheld, without

POPULATION, OWN, OTHER = "population", "own", "matched-other"
CONTROLS = (OTHER, POPULATION, "noisy-copy", "real-others")
ARMS = (POPULATION, OWN, OTHER, "noisy-copy", "real-others")
_TOGETHER = 12  # people whose twins are made at once
_OTHER_SEX, _OTHER_SITE = 1000.0, 500.0  # years of age that a difference outweighs


@dataclass(frozen=True)
class Others:
    """ECGs of people nobody trained on and of whom nothing is scored."""

    healthy: np.ndarray  # (h,) positions of NORM-only records with enough beats, of known age
    diseased: Mapping[int, np.ndarray]  # superclass to positions of the records that carry it alone

    @classmethod
    def of(cls, database: Database, people: np.ndarray, folds: Sequence[int]) -> Others:
        """Look in these folds for everybody but ``people`` (patient identifiers).

        Raises:
            DataError: they hold nobody healthy, or nobody with one of the diseases alone.
        """
        chosen = np.intersect1d(database.in_folds(*folds), without(database, people))
        check_withheld(database, chosen, people, "the others' ECGs")
        labels = database.labels[chosen]
        known = database.beats.found()[chosen] & database.table["age"].notna().to_numpy()[chosen]
        healthy = chosen[database.norm_only()[chosen] & known]
        alone = labels.sum(axis=1) == 1
        diseased = {c: chosen[alone & (labels[:, c] == 1)] for c in range(1, len(SUPERCLASSES))}
        if len(healthy) == 0 or not all(map(len, diseased.values())):
            raise DataError(
                f"folds {', '.join(map(str, folds))} of {database.folder} lack other people who are healthy, or who "
                "have one of the diseases alone: personal detectors cannot be compared with controls there"
            )
        return cls(healthy, diseased)


def match_others(database: Database, references: np.ndarray, healthy: np.ndarray, seed: int) -> np.ndarray:
    """Find each reference the healthy record of another person that is most like it.

    The same sex comes before the same site, and that before age; of equals one is drawn. One record may serve several.

    Args:
        database: its table is read.
        references: ``(n,)`` positions; where its age is unknown, it is the mean of the person's other records.
        healthy: ``(h,)`` positions to choose from.
        seed: of the draws.

    Returns:
        ``(n,)`` positions.

    Raises:
        DataError: there is nobody else.
    """
    table, rng = database.table, np.random.default_rng(seed)
    patient, sex, site = (table[name].to_numpy() for name in ("patient_id", "sex", "site"))
    age = table["age"].fillna(table.groupby("patient_id")["age"].transform("mean")).to_numpy()
    chosen = np.zeros(len(references), dtype=np.int64)
    for row, own in enumerate(references):
        healthy = rng.permutation(healthy)  # of equals the first is taken
        years = np.nan_to_num(np.abs(age[healthy] - age[own]))  # nobody knows the person's age: all are equals
        cost = years + _OTHER_SEX * (sex[healthy] != sex[own]) + _OTHER_SITE * (site[healthy] != site[own])
        cost = np.where(patient[healthy] == patient[own], np.inf, cost)
        if not np.isfinite(cost).any():
            raise DataError(f"nobody in {database.folder} can stand in for patient {patient[own]}: more records needed")
        chosen[row] = healthy[np.argmin(cost)]
    return chosen


class Arms:
    """What one seed's generator makes of every person.

    Args:
        generator: trained without any of them.
        database: all records.
        references: ``(n,)`` positions, one a person, with enough beats.
        others: whom the controls are taken from.
        seed: of the draws.
    """

    def __init__(
        self, generator: Generator, database: Database, references: np.ndarray, others: Others, seed: int
    ) -> None:
        self.generator, self.others, self.seed = generator, others, seed
        self.database, self.references = database, references
        self.matched = match_others(database, references, others.healthy, seed)
        self._data = SiteData("people", database, np.arange(len(database)), generator.config)
        diseases = available_diseases(generator.codebook["requests"])
        self.classes = diseases.repeat(generator.config.personal.twins)  # (k,) of a person's twins

    def __iter__(self) -> Iterator[dict[str, LabelledEcgs]]:
        """Go through the people in order: the examples of every arm but ``population``."""
        for rows in np.array_split(np.arange(len(self.references)), -(-len(self.references) // _TOGETHER)):
            yield from self._some(rows)

    def _some(self, rows: np.ndarray) -> Iterator[dict[str, LabelledEcgs]]:
        draws = torch.Generator().manual_seed(zlib.crc32(f"{self.seed}/personal/{rows[0]}".encode()))
        classes = self.classes.repeat(len(rows))  # (m k,)
        wanted = named(draw_statements(self.generator.codebook["requests"], classes, draws))
        state = draws.get_state()
        own, other = self._data.patients(self.references[rows]), self._data.patients(self.matched[rows])
        made = []
        for patients in (own, other):  # of the same requests, with the same draws
            draws.set_state(state)
            made.append(self._twins(patients, wanted, draws))
        for row in range(len(rows)):
            reference, twins = own.signal[row], made[0][row]
            yield {
                OWN: personal_examples(reference, twins, self.classes),
                OTHER: personal_examples(other.signal[row], made[1][row], self.classes),
                "noisy-copy": personal_examples(reference, noisy_copies(reference, twins, draws), self.classes),
                "real-others": personal_examples(reference, self._real(draws), self.classes),
            }

    def _twins(self, patients: Patients, wanted: list[list[str]], draws: torch.Generator) -> Tensor:
        """Twins ``(m, k, 8, T)`` mV of m people."""
        generator = self.generator
        several = patients.take(torch.arange(len(patients)).repeat_interleave(len(self.classes)))
        twins = request_twins(generator.networks, generator.codes, several, wanted, generator.config, 1.0, draws)
        return twins.signal.unflatten(0, (len(patients), -1))

    def _real(self, draws: torch.Generator) -> Tensor:
        """Real ECGs ``(k, 8, T)`` mV of the classes; none twice, as long as there are enough."""
        places = np.zeros(len(self.classes), dtype=np.int64)
        for disease in self.classes.unique().tolist():
            where = np.flatnonzero(self.classes.numpy() == disease)
            pool = self.others.diseased[disease]
            order = torch.cat([torch.randperm(len(pool), generator=draws) for _ in range(-(-len(where) // len(pool)))])
            places[where] = pool[order[: len(where)].numpy()]
        return self.database.signals(places)


def noisy_copies(reference: Tensor, twins: Tensor, draws: torch.Generator) -> Tensor:
    """Copies ``(k, 8, T)`` of a reference ``(8, T)``, each lead as far from it (RMS) as its twin's of ``(k, 8, T)``."""
    far = (twins - reference).square().mean(dim=-1, keepdim=True).sqrt()  # (k, 8, 1)
    return reference + far * torch.randn(twins.shape, generator=draws)
