"""Canaries for the private head: patients made up so that each can be looked for by itself in what is released.

A canary's records lie on an axis of their own of the description, so far out that the head sees that axis alone,
whatever the centre. Its clipped gradients then lie in a column of the weights which no other canary touches but by
the constant feature, and every step's released sum says of each canary, independently of the others, whether it was in.
A private training has to hide also those: clipping is what bounds them, so nothing about a canary is too extreme.

Some have many records, all alike. Where a record is taken for a patient they count as often.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lavq_core.signals.description import SIZE
from lavq_core.training.head_training import PatientItems
from simulations.audit.privacy.head_reference import Head, clipped_errors, standardised

LENGTH = 1000.0  # of a canary's description, a hundred times and more what a centre and its noise are long
MANY = 10  # records of those that have many


@dataclass(frozen=True)
class Canaries:
    """Canary i is row i."""

    axis: np.ndarray  # (m,) int64, coordinate of the description, no two alike
    y: Tensor  # (m, 5) float32 of 0 and 1
    records: np.ndarray  # (m,) int64
    included: np.ndarray  # (m,) bool, by independent fair coins

    @classmethod
    def draw(cls, number: int, with_many: int, seed: int) -> Canaries:
        """Make canaries, of which the first ``with_many`` have many records, and toss their coins.

        Raises:
            ValueError: there are not so many axes, of which one at least stays free.
        """
        if not 0 <= with_many <= number < SIZE:
            raise ValueError(f"there are axes for {SIZE - 1} canaries beside a free one, and {number} were asked for")
        generator = np.random.default_rng([zlib.crc32(b"audit/canaries"), seed])
        axis = generator.permutation(SIZE)[:number]
        y = torch.from_numpy(generator.integers(0, 2, (number, 5)).astype(np.float32))
        records = np.where(np.arange(number) < with_many, MANY, 1)
        return cls(axis, y, records, generator.random(number) < 0.5)

    def __len__(self) -> int:
        return len(self.axis)

    def kinds(self) -> dict[str, np.ndarray]:
        """Canaries by their number of records, in words: ``(m,)`` bool."""
        return by_records(self.records)

    @property
    def x(self) -> Tensor:
        """Description of each canary: ``(m, SIZE)`` float32."""
        x = torch.zeros(len(self), SIZE)
        x[torch.arange(len(self)), torch.from_numpy(self.axis)] = LENGTH
        return x

    def records_of(self, chosen: np.ndarray) -> PatientItems:
        """Records of some canaries, ``chosen (m,)`` bool, numbered from 0."""
        rows = np.repeat(np.arange(len(self)), np.where(chosen, self.records, 0))
        return PatientItems.of(self.x[rows], self.y[rows], rows)

    def alone(self, chosen: np.ndarray) -> PatientItems:
        """One record of each of some canaries: a patient of many that are alike adds no more to a sum."""
        return PatientItems.of(self.x[chosen], self.y[chosen], np.flatnonzero(chosen))

    def signals(self, weights: Tensor, centre: Tensor, head: Head) -> Tensor:
        """What each canary adds to its own column of a step's sum: ``(T, m, 5)`` at weights ``(T, 5, SIZE + 1)``."""
        seen = standardised(self.x, centre)
        own = seen[torch.arange(len(self)), torch.from_numpy(self.axis)]  # (m,)
        return clipped_errors(seen, self.y, weights, head) * own[:, None]


def together(first: PatientItems, second: PatientItems) -> PatientItems:
    """Put the patients of both together; none of one is taken for one of the other."""
    owner = torch.cat([first.owner, second.owner + first.patients]).numpy()
    return PatientItems.of(torch.cat([first.x, second.x]), torch.cat([first.y, second.y]), owner)


def by_records(records: np.ndarray) -> dict[str, np.ndarray]:
    """Tell canaries apart by their number of records ``(m,)``, named in words: ``(m,)`` bool each."""
    return {f"{n} record{'s' * (n > 1)}": records == n for n in np.unique(records).tolist()}
