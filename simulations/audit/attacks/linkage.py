"""Linkage of twins: whose ECG they were made of, and to which other ECG of that person they lead.

A twin keeps its patient's own samples outside the gate, bit for bit. That is what a twin is for, and so it *does* link
to that patient: the figures here say how surely, they are no news. They are why twins are the patient's data and stay
on site. Two things are told apart: that a twin leads to the very record it was made from (**source**), and that it
leads to another ECG of the same person (**another**), which is what harms somebody whose twin was published and who has
an ECG taken elsewhere. Distance to the closest record, the usual check of synthetic data, calls the second one private.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulations.audit.attacks.identity_search import Search, beat_distance, gallery, matched_others, search
from simulations.audit.attacks.people import People


@dataclass(frozen=True)
class Linkage:
    """Where twins lead; only those whose person has another usable record are in the last three."""

    source: Search  # from a twin to the record that it was made from
    source_control: Search  # from the twin of a matched other person to that same record
    another: Search  # from a twin to another record of its person
    another_control: Search  # from the twin of a matched other person to that same record
    real: Search  # from the source record itself to another record of its person: what no twin at all would leave

    def leads_to_source(self) -> bool:
        """Tell whether twins find their source, beyond what any twin for somebody alike does."""
        return self.source.top1.low > self.source_control.top1.high

    def leads_to_person(self) -> bool:
        """Tell whether twins find another ECG of their person, beyond what any twin for somebody alike does."""
        return self.another.top1.low > self.another_control.top1.high


def linkage(twins: np.ndarray, source: np.ndarray, people: People) -> Linkage:
    """Look for the person of each twin among all people.

    Every person is in the gallery with one record. Who has a twin is there once with its source, and once, if there is
    one, with another record, the last. The control answers each search with the twin of another person, the most alike
    in superclasses, heart rate, age and sex, who is then taken out of the gallery.

    Args:
        twins: ``(q, 8, W)`` mV, median beats, at most one of a person.
        source: ``(q,)`` int64, rows of ``people``: the records that the twins were made from.
        people: gallery.

    Raises:
        ValueError: a person has two twins, or fewer than two have another record than their twin's source.
    """
    whose = people.owner[source]  # (q,)
    if len(np.unique(whose)) < len(whose):
        raise ValueError("a person may be looked for once: bring one twin of each")
    again = _last_other(source, people)  # (q,) rows, -1 where there is none
    several = np.flatnonzero(again >= 0)
    if len(several) < 2:
        raise ValueError("at least two people with a twin need another usable record")
    beats, alike = people.beats.x.numpy(), matched_others(source, people)
    partner = several[matched_others(source[several], people)]  # places in ``twins``

    def look(query: np.ndarray, target: np.ndarray, barred: np.ndarray | None = None) -> Search:
        shown = gallery(target, people)
        own = np.searchsorted(people.owner[shown], people.owner[target])
        out = None if barred is None else np.searchsorted(people.owner[shown], barred)
        return search(beat_distance(query, beats[shown]), own, out)

    return Linkage(
        source=look(twins, source),
        source_control=look(twins[alike], source, whose[alike]),
        another=look(twins[several], again[several]),
        another_control=look(twins[partner], again[several], whose[partner]),
        real=look(beats[source[several]], again[several]),
    )


def _last_other(source: np.ndarray, people: People) -> np.ndarray:
    """The last record of each row's person that is not that row: ``(q,)``, -1 where there is none."""
    found = [np.flatnonzero(people.owner == people.owner[row]) for row in source]
    others = [rows[rows != row] for rows, row in zip(found, source, strict=True)]
    return np.array([rows[-1] if len(rows) else -1 for rows in others], dtype=np.int64)
