"""What crossed between the hospitals and the server in a run, as figures of ``metrics.json``.

===============================================  =======================================================================
``bytes_per_round.down``, ``.up``                mean of a hospital and round, training and evaluation together
``bytes.site.NAME.down``, ``.up``                of a hospital over the whole run
``updates.site.NAME.used``, ``.asked``           rounds whose update was used, rounds in which it was asked for one
``wire.PART.tensors``, ``.values``, ``.bytes``   what a hospital sends of a part of the model in a round
===============================================  =======================================================================
"""

from __future__ import annotations

from lavq_core.report.evidence import shared_model, traffic
from lavq_core.runs.layout import RunFolder

Counts = dict[str, float | int | str]


def byte_counts(events: list[dict]) -> Counts:
    """Mean bytes of one round and site, as serialised records; empty before the first reply."""
    talk = [event for event in events if event["event"] in ("site-replied", "site-evaluated") and event["round"] > 0]
    pairs = {(event["round"], event["site"]) for event in talk}
    if not pairs:
        return {}
    return {
        f"bytes_per_round.{way}": round(sum(event[f"bytes_{way}"] for event in talk) / len(pairs))
        for way in ("down", "up")
    }


def wire_metrics(run: RunFolder) -> Counts:
    """Each hospital's bytes and updates over the whole run, and the size of what one round sends.

    Raises:
        RunError: a file of the final model does not have its hash.
    """
    found: Counts = {}
    for site in traffic(run):
        found |= {f"bytes.site.{site.site}.down": site.down, f"bytes.site.{site.site}.up": site.up}
        found |= {f"updates.site.{site.site}.used": site.good, f"updates.site.{site.site}.asked": site.asked}
    model = shared_model(run)
    if model is None:
        return found
    for part in model.parts:
        keys = (f"wire.{part}.{what}" for what in ("tensors", "values", "bytes"))
        found |= dict(zip(keys, model.sent(part), strict=True))
    return found
