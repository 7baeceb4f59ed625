"""From the sites' updates to the next shared model.

The detector is Federated Averaging (McMahan et al. 2017, *Communication-Efficient Learning of Deep Networks from
Decentralized Data*, algorithm 1), weighted by the number of examples, as Flower's ``FedAvg`` computes it. The codebook
is not averaged: its statistics are summed (``lavq_core.models.codebook``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

from server.flower_adapter import aggregate_with

State = dict[str, Tensor]
MergeStatistics = Callable[[Mapping[str, Tensor], Sequence[Mapping[str, Tensor]]], State]


@dataclass(frozen=True)
class SharedModel:
    """What travels from the server to the sites.

    Attributes:
        detector: state dict; floating point only, since an average of integers (BatchNorm's counters) means nothing.
        codebook: ``codes (K, D)``, ``counts (K,)``, ``sums (K, D)``, ``prior (C, P, K+1)``, float32.
    """

    detector: State
    codebook: State

    def __post_init__(self) -> None:
        whole = [name for name, value in self.detector.items() if not value.is_floating_point()]
        if whole:
            raise ValueError(f"the detector holds entries that cannot be averaged: {', '.join(whole)}")

    def parts(self) -> dict[str, State]:
        """Return ``{"detector": ..., "codebook": ...}``, the form of a checkpoint."""
        return {"detector": self.detector, "codebook": self.codebook}

    def records(self) -> RecordDict:
        """Return the two ``ArrayRecord``s of a message."""
        return RecordDict({name: ArrayRecord(torch_state_dict=state) for name, state in self.parts().items()})


@dataclass(frozen=True)
class SiteUpdate:
    """One site's checked reply to ``train``.

    Attributes:
        detector: state dict with the keys, shapes and dtypes that were sent.
        codebook: fresh sums of this round, ``counts (K,)``, ``sums (K, D)``, ``prior (C, P, K+1)``.
        examples: weight of this site in the average.
    """

    detector: State
    codebook: State
    examples: int


def average_detectors(updates: Sequence[SiteUpdate], round_number: int) -> State:
    """Average the detectors, weighted by ``examples``; dtypes are kept."""
    contents = [
        RecordDict(
            {
                "detector": ArrayRecord(torch_state_dict=update.detector),
                "metrics": MetricRecord({"num-examples": update.examples}),
            }
        )
        for update in updates
    ]
    arrays = aggregate_with(FedAvg(), round_number, contents).array_records["arrays"]
    like = updates[0].detector
    return {name: torch.from_numpy(arrays[name].numpy()).to(value.dtype) for name, value in like.items()}


def aggregate(
    model: SharedModel, updates: Mapping[str, SiteUpdate], round_number: int, merge: MergeStatistics
) -> SharedModel:
    """Make the next shared model.

    Args:
        model: what was sent.
        updates: by site; added up in the order of the sites' names, so that the order of arrival changes no bit.
        round_number: counts from 1.
        merge: ``merge_statistics`` of the codebook.
    """
    ordered = [updates[site] for site in sorted(updates)]
    detector = average_detectors(ordered, round_number)
    codebook = merge(model.codebook, [update.codebook for update in ordered])
    return SharedModel(detector, codebook)
