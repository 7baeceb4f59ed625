"""SCP statements as tokens: one embedding a statement, from its English description."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from torch import Tensor

from lavq_core.data.labels import diagnostic_statements, public_statements
from lavq_core.settings import TextConfig
from lavq_core.text.encoders import TextEncoder, make_encoder
from lavq_core.text.memory import ReportMemory, statement_memory

NORMAL = "NORM"


@lru_cache(maxsize=4)
def public_encoder(name: str, width: int) -> TextEncoder:
    """Make the text encoder, fitted (where it is fitted) on the public descriptions only: the same at every site."""
    return make_encoder(name, width, list(public_statements()["description"]))


def requests(statements: Sequence[Sequence[str]], config: TextConfig) -> ReportMemory:
    """Embed what is asked for, or what a record says: one token a statement, none for NORM.

    Args:
        statements: SCP codes of each twin or record; unknown codes are left out.
        config: which encoder.
    """
    descriptions = public_statements()["description"].astype(str).to_dict()
    encoder = public_encoder(config.encoder, config.width)
    wanted = [[code for code in codes if code != NORMAL] for codes in statements]
    return statement_memory(wanted, descriptions, encoder)


def named(columns: Tensor) -> list[list[str]]:
    """Name drawn statements ``(B,)`` (``lavq_core.models.prior.draw_statements``): one a twin."""
    order = diagnostic_statements()
    return [[order[int(column)]] for column in columns]
