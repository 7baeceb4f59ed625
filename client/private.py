"""The site's side of private training: its ledger, and the guard at the door."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from client.site import Site
from lavq_core.models.codebook import no_statistics
from lavq_core.models.networks import beat_tokens
from lavq_core.privacy.guard import LeavingRefused, Parts, check_leaving
from lavq_core.privacy.ledger import Ledger
from lavq_core.training.feature_round import examples_of
from lavq_core.training.site_round import SharedState


def open_ledger(site: Site, acknowledged: str) -> Ledger | None:
    """Open the site's ledger; None where the run is not private.

    Args:
        site: whose.
        acknowledged: the head that the server last heard of from this site; empty if it knows none.

    Raises:
        LedgerError: the ledger cannot be trusted.
    """
    config = site.data.config
    if config.privacy.epsilon == 0:
        return None
    limit = math.inf if site.policy.epsilon_max is None else site.policy.epsilon_max
    ledger = Ledger(site.folder.ledger, site.data.fingerprint, limit, config.privacy.delta)
    ledger.require_head(acknowledged)
    return ledger


def check_reply(site: Site, ledger: Ledger, parts: Parts, examples: int, shared: SharedState) -> None:
    """Let a reply go only if all of it was released by the ledger's newest entry, or is public.

    Raises:
        LeavingRefused: it holds something else.
    """
    config, newest = site.data.config, ledger.entries[-1]
    constants = no_statistics(config.codebook, beat_tokens(config))
    public: dict[str, Mapping[str, Tensor]] = {
        "detector": shared.detector, "networks": shared.networks, "constants": constants
    }  # fmt: skip
    check_leaving(parts, newest.outputs, public)
    sizes = [entry.public["size"] for entry in ledger.entries if "size" in entry.public]
    if examples not in {examples_of(size) for size in sizes}:
        raise LeavingRefused("num-examples is not the released number of patients: nothing was sent")
