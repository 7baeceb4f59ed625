"""The leaving guard: while training is private, a tensor leaves a site only if a mechanism in the ledger released it.

Whoever releases a tensor (it is noise plus a bounded sum, or computed from such and from what everybody knows) enters
its digest in the ledger. Before a reply is sent, every tensor of it must be one of these, or one that came from the
server or is a constant, unchanged to the bit. Whatever got into a reply by another way is thereby caught: a buffer fed
by data, a statistic that somebody forgot, a tensor changed after it was entered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

from torch import Tensor

from lavq_core.errors import LavqError

Parts = Mapping[str, Mapping[str, Tensor]]


class LeavingRefused(LavqError):  # noqa: N818 - says what happened
    """Something in a reply comes from no mechanism."""


def digest(tensor: Tensor) -> str:
    """Return the sha256 of dtype, shape and values."""
    array = tensor.detach().cpu().contiguous().numpy()
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()


def digests(parts: Parts) -> list[str]:
    """Return the digests of all tensors of a reply's parts, for the ledger."""
    return sorted({digest(tensor) for part in parts.values() for tensor in part.values()})


def check_leaving(parts: Parts, released: Collection[str], public: Parts) -> None:
    """Refuse a reply that holds anything which neither the ledger nor everybody knows.

    Args:
        parts: what is about to be sent, by part and name.
        released: digests of the ledger's entry for this release.
        public: what the server sent, and constants.

    Raises:
        LeavingRefused: names the part and tensor; it was not sent.
    """
    known = {*released, *digests(public)}
    for part, state in parts.items():
        for name, tensor in state.items():
            if digest(tensor) not in known:
                raise LeavingRefused(
                    f"{part}/{name} comes from no mechanism in the privacy ledger: nothing was sent. This is a fault "
                    "of the program, please report it"
                )
