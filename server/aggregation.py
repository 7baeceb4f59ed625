"""From the sites' updates to the next shared model.

Detector and shared networks are combined by one of Flower's strategies (``server.strategies``), the detector together
with its optimiser's moments, so that a strategy that picks sites picks the same ones for both. The codebook is not
averaged: its statistics are summed (``lavq_core.models.codebook``), whatever the strategy, so a robust one does not
protect it; what does is in ``server.validation`` and ``server.screening``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from lavq_core.settings import DetectorTrainingConfig, FederationConfig
from server.model import SharedModel, SiteUpdate, State
from server.screening import Screened, screen
from server.strategies import combine

MergeStatistics = Callable[[Mapping[str, Tensor], Sequence[Mapping[str, Tensor]]], State]


@dataclass(frozen=True)
class Aggregator:
    """How a round's updates become a model.

    Attributes:
        federation: strategy, caps.
        training: of the sites' detectors: how many steps a site takes.
        merge: ``merge_statistics`` of the codebook.
    """

    federation: FederationConfig
    training: DetectorTrainingConfig
    merge: MergeStatistics

    def screen(self, model: SharedModel, updates: Mapping[str, SiteUpdate]) -> Screened:
        """Judge a round's updates by each other, see ``server.screening``."""
        return screen(model, updates, self.federation, self.training)

    def aggregate(
        self, model: SharedModel, updates: Mapping[str, SiteUpdate], round_number: int, memory: State
    ) -> tuple[SharedModel, State]:
        """Make the next shared model.

        Args:
            model: what was sent.
            updates: by site, screened; added up in the order of the sites' names, so that the order of arrival changes
                no bit.
            round_number: counts from 1.
            memory: the strategy's, from the last call; empty at first.

        Returns:
            The model, and the strategy's memory: tensors by name, for the checkpoint.
        """
        ordered = [updates[site] for site in sorted(updates)]
        examples = [update.examples for update in ordered]
        combined: dict[str, State] = {"detector": {}, "networks": {}, "moments": {}}
        remembered: State = {}
        for parts in (("detector", "moments"), ("networks",)):
            if sent := _joined(model, parts):
                states = [_joined(update, parts) for update in ordered]
                whole, kept = combine(self.federation, sent, states, examples, round_number, memory)
                remembered |= kept
                for name, value in whole.items():
                    part, key = name.split("/", 1)
                    combined[part][key] = value
        codebook = self.merge(model.codebook, [update.codebook for update in ordered])
        return SharedModel(combined["detector"], codebook, combined["networks"], combined["moments"]), remembered


def _joined(state: SharedModel | SiteUpdate, parts: Sequence[str]) -> State:
    """One state dict of some parts: ``PART/NAME``."""
    return {f"{part}/{name}": value for part in parts for name, value in getattr(state, part).items()}
