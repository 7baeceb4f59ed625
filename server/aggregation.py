"""From the sites' updates to the next shared model.

Detector and shared networks are averaged (Federated Averaging: McMahan et al. 2017, *Communication-Efficient Learning
of Deep Networks from Decentralized Data*, algorithm 1), weighted by the number of examples, as Flower's ``FedAvg``
computes it. The codebook is not averaged: its statistics are summed (``lavq_core.models.codebook``).
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
        codebook: ``codes (K, D)``, ``counts (K,)``, ``sums (K, D)``, ``prior (C, N, K+1)``, ``requests (C, S)``,
            float32.
        networks: weights of the networks that ``federation.share`` names; may be empty.
    """

    detector: State
    codebook: State
    networks: State

    def __post_init__(self) -> None:
        whole = [
            name for state in (self.detector, self.networks) for name, value in state.items()
            if not value.is_floating_point()
        ]  # fmt: skip
        if whole:
            raise ValueError(f"the model holds entries that cannot be averaged: {', '.join(whole)}")

    def parts(self) -> dict[str, State]:
        """Return the parts by name, the form of a checkpoint; ``networks`` is left out when nothing is shared."""
        parts = {"detector": self.detector, "codebook": self.codebook, "networks": self.networks}
        return {name: state for name, state in parts.items() if state}

    def records(self) -> RecordDict:
        """Return the ``ArrayRecord``s of a message."""
        return RecordDict({name: ArrayRecord(torch_state_dict=state) for name, state in self.parts().items()})


@dataclass(frozen=True)
class SiteUpdate:
    """One site's checked reply to ``train``.

    Attributes:
        detector: state dict with the keys, shapes and dtypes that were sent.
        codebook: fresh sums of this round: ``counts (K,)``, ``sums (K, D)``, ``prior (C, N, K+1)`` and ``requests
            (C, S)``.
        networks: like the detector, for the shared networks.
        examples: weight of this site in the average.
    """

    detector: State
    codebook: State
    networks: State
    examples: int


def average(states: Sequence[State], examples: Sequence[int], round_number: int) -> State:
    """Average the sites' weights, weighted by ``examples``; dtypes are kept."""
    contents = [
        RecordDict(
            {
                "weights": ArrayRecord(torch_state_dict=state),
                "metrics": MetricRecord({"num-examples": count}),
            }
        )
        for state, count in zip(states, examples, strict=True)
    ]
    arrays = aggregate_with(FedAvg(), round_number, contents).array_records["arrays"]
    return {name: torch.from_numpy(arrays[name].numpy()).to(value.dtype) for name, value in states[0].items()}


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
    examples = [update.examples for update in ordered]
    detector = average([update.detector for update in ordered], examples, round_number)
    networks = average([update.networks for update in ordered], examples, round_number) if model.networks else {}
    codebook = merge(model.codebook, [update.codebook for update in ordered])
    return SharedModel(detector, codebook, networks)
