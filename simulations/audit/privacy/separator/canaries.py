"""Gradient canaries for private steps of networks: patients whose whole gradient lies in one weight.

No ECG could be made up that has such a gradient, so a canary brings a loss of its own, a large multiple of one weight,
which takes the place of the loss of a real record; all that follows (clipping, sum, noise, optimiser) is the real step.
Private training has to hide any gradient that a patient may have. That of a single weight ("Dirac canary": Nasr et al.
2023, *Tight Auditing of Differentially Private Machine Learning*, section 4) meets no other canary's.

Beside the loss, a canary's records are copies of real ones, abnormal and normal ones in turn: both go their own way.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from lavq_core.training.guided import GuidedBeats
from simulations.audit.privacy.canaries import MANY, by_records

LENGTH = 1000.0  # of a canary's gradient before it is clipped
NONE = -1  # axis of a real record


@dataclass
class WatchedBeats(GuidedBeats):
    """Records of real patients and of canaries."""

    row: Tensor  # (n,) int64, the record's own number
    axis: Tensor  # (n,) int64, place of a canary's weight among all weights; NONE for a real record


@dataclass(frozen=True)
class GradientCanaries:
    """Canary i is row i."""

    axis: np.ndarray  # (m,) int64, place of its weight among all, no two alike
    records: np.ndarray  # (m,) int64
    included: np.ndarray  # (m,) bool, by independent fair coins

    @classmethod
    def draw(cls, number: int, with_many: int, sizes: Sequence[int], seed: int) -> GradientCanaries:
        """Give canaries a weight each, and toss their coins.

        Every tensor of weights has a canary, if there are so many; the others are anywhere. Those with many records,
        ``with_many``, are any of them.

        Args:
            number: of canaries.
            with_many: of those with many records.
            sizes: numbers of weights of all tensors, in their order.
            seed: of the draws.

        Raises:
            ValueError: there are not so many weights, of which one at least stays free.
        """
        if not 0 <= with_many <= number < sum(sizes):
            raise ValueError(
                f"there are weights for {sum(sizes) - 1} canaries beside a free one: {number} are too many"
            )
        generator = np.random.default_rng([zlib.crc32(b"audit/gradient canaries"), seed])
        ends = np.cumsum(sizes)
        first = generator.permutation(ends - 1 - generator.integers(0, sizes))[:number]  # one of each tensor
        rest = np.setdiff1d(np.arange(ends[-1]), first)
        axis = np.r_[first, generator.choice(rest, number - len(first), replace=False)]
        records = np.where(generator.permutation(number) < with_many, MANY, 1)
        return cls(axis, records, generator.random(number) < 0.5)

    def kinds(self) -> dict[str, np.ndarray]:
        """Canaries by their number of records, in words: ``(m,)`` bool."""
        return by_records(self.records)


@dataclass(frozen=True)
class Participants:
    """Real patients with the canaries that take part."""

    beats: WatchedBeats  # (n, ...), real ones first
    owner: Tensor  # (n,) int64, real patients 0 to real - 1, canary i is patient real + i
    real: int
    copy_of: Tensor  # (n,) int64, row of the real record whose ECG, labels and report it has

    @property
    def patients(self) -> np.ndarray:
        """Everybody, ascending: ``(p,)`` int64."""
        return self.owner.unique().numpy()


def together(beats: GuidedBeats, owner: Tensor, canaries: GradientCanaries) -> Participants:
    """Put the records ``(n, ...)`` of real patients, numbered from 0, and of the canaries taking part together."""
    real = int(owner.max()) + 1
    mine = np.repeat(np.arange(len(canaries.axis)), np.where(canaries.included, canaries.records, 0))
    kinds = [rows.numpy() for rows in (beats.abnormal(), beats.norm_only()) if len(rows)]
    copied = [kinds[canary % len(kinds)][place % len(kinds[canary % len(kinds)])] for place, canary in enumerate(mine)]
    copy_of = torch.cat([torch.arange(len(beats)), torch.tensor(copied, dtype=torch.int64)])
    both = beats.take(copy_of)
    axis = torch.cat([torch.full((len(beats),), NONE), torch.from_numpy(canaries.axis[mine])])
    columns = {item.name: getattr(both, item.name) for item in fields(both)}
    watched = WatchedBeats(**columns, row=torch.arange(len(both)), axis=axis)
    return Participants(watched, torch.cat([owner, torch.from_numpy(real + mine)]), real, copy_of)
