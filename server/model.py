"""What travels between server and sites, as the server holds it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from flwr.app import RecordDict
from torch import Tensor

from server.packing import PARTS, pack

State = dict[str, Tensor]


@dataclass(frozen=True)
class SharedModel:
    """What travels from the server to the sites.

    Attributes:
        detector: state dict; floating point only, since an average of integers (BatchNorm's counters) means nothing.
        codebook: ``codes (K, D)``, ``counts (K,)``, ``sums (K, D)``, ``prior (C, N, K+1)``, ``requests (C, S)``,
            float32.
        networks: weights of the networks that ``federation.share`` names; may be empty.
        moments: of the detector's optimiser, ``first.NAME`` and ``second.NAME``; empty unless
            ``federation.average_moments``.
    """

    detector: State
    codebook: State
    networks: State
    moments: State = field(default_factory=dict)

    def __post_init__(self) -> None:
        whole = [
            name for state in (self.detector, self.networks) for name, value in state.items()
            if not value.is_floating_point()
        ]  # fmt: skip
        if whole:
            raise ValueError(f"the model holds entries that cannot be averaged: {', '.join(whole)}")

    def parts(self) -> dict[str, State]:
        """Return the parts by name, the form of a checkpoint; ``networks`` and ``moments`` only where there are any."""
        parts = {
            "detector": self.detector, "codebook": self.codebook, "networks": self.networks, "moments": self.moments
        }  # fmt: skip
        return {name: state for name, state in parts.items() if state}

    def scored(self, last: bool) -> SharedModel:
        """Return what sites need to evaluate: the detector alone, which is all they score.

        After the last round also codebook and networks, with which they make their twins and which come no other way;
        after another round these come with the next training. Never moments.
        """
        return replace(self, moments={}) if last else SharedModel(self.detector, {}, {})

    def records(self) -> RecordDict:
        """Return the content of a message: the record of all parts (``server.packing``)."""
        return RecordDict({PARTS: pack(self.parts())})


@dataclass(frozen=True)
class LedgerNote:
    """What a site says of its privacy ledger; none of it depends on a patient.

    Attributes:
        head: hash of the newest entry, echoed to the site in the next round.
        epsilon, delta: what all releases of the site have cost so far.
    """

    head: str
    epsilon: float
    delta: float


@dataclass(frozen=True)
class SiteUpdate:
    """One site's checked reply to ``train``.

    Attributes:
        detector: state dict with the keys, shapes and dtypes that were sent.
        codebook: fresh sums of this round: ``counts (K,)``, ``sums (K, D)``, ``prior (C, N, K+1)`` and ``requests
            (C, S)``.
        networks: like the detector, for the shared networks.
        examples: weight of this site in the average: the records that it declares, or fewer where it was cut.
        moments: like the model's.
        ledger: where training is private.
    """

    detector: State
    codebook: State
    networks: State
    examples: float
    moments: State = field(default_factory=dict)
    ledger: LedgerNote | None = None
