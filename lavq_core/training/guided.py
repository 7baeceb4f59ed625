"""Beats with their reports and labels: what separator, editor and prior network train on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.models.beat_input import BeatInput

NORM = SUPERCLASSES.index("NORM")


@dataclass
class GuidedBeats(BeatInput):
    """A set of ECGs in the beat frame with what is known of them."""

    y: Tensor  # (n, 5) 0 or 1
    memory: Tensor  # (n, L, width) report tokens, guide the separator
    mask: Tensor  # (n, L) bool
    asked: Tensor  # (n, M, width) statements' tokens, the form in which a twin is asked for
    asked_mask: Tensor  # (n, M) bool
    statements: Tensor  # (n, S) 0 or 1, diagnostic statements see ``statement_matrix``
    places: Tensor  # (n, L) int64, see ``lavq_core.models.strip``

    def abnormal(self) -> Tensor:
        """Rows with any superclass but NORM."""
        return (self.y.sum(1) > self.y[:, NORM]).nonzero().flatten()

    def norm_only(self) -> Tensor:
        """Rows that are NORM and nothing else."""
        return ((self.y[:, NORM] == 1) & (self.y.sum(1) == 1)).nonzero().flatten()


def class_weights(y: Tensor) -> Tensor:
    """How much each record says about each abnormal superclass; ``(B, 5)`` to ``(B, 5)``, NORM is 0.

    One over the squared number of the record's abnormal labels: a record with a single disease shows that disease, one
    with three shows each of them mixed with two others.
    """
    abnormal = y.clone()
    abnormal[:, NORM] = 0.0
    return abnormal / abnormal.sum(1, keepdim=True).clamp_min(1.0).square()
