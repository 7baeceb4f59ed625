"""The report memory: what each ECG's report says, as tokens for the separator's cross-attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from lavq_core.text.encoders import TextEncoder


@dataclass(frozen=True)
class ReportMemory:
    """Report tokens of a set of records."""

    tokens: Tensor  # (n, L, width) float32
    mask: Tensor  # (n, L) bool, true where there is a token

    def rows(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(tokens (m, L, width), mask (m, L))`` of the given rows."""
        return self.tokens[positions], self.mask[positions]


def statement_memory(
    statements: Sequence[Sequence[str]], descriptions: Mapping[str, str], encoder: TextEncoder
) -> ReportMemory:
    """One token a statement, from its English description.

    Args:
        statements: SCP codes of each record; codes without a description are left out.
        descriptions: code to description, the public table of the database.
        encoder: text encoder.
    """
    known = sorted(descriptions)
    table = _embedded(tuple(descriptions[code] for code in known), encoder)  # (S, width)
    row_of = {code: row for row, code in enumerate(known)}
    return _pad([[table[row_of[code]] for code in codes if code in row_of] for codes in statements], encoder.width)


@lru_cache(maxsize=4)
def _embedded(descriptions: tuple[str, ...], encoder: TextEncoder) -> Tensor:
    """Embed a vocabulary ``(S, width)`` once, as every request for twins asks of the same one; nobody may change it."""
    return encoder.encode(descriptions)


def free_text_memory(reports: Sequence[str], encoder: TextEncoder) -> ReportMemory:
    """One token a sentence of the free-text report."""
    sentences = [[part.strip() for part in report.split(".") if part.strip()] for report in reports]
    unique = sorted({sentence for record in sentences for sentence in record})
    table = encoder.encode(unique)  # (S, width)
    row_of = {sentence: row for row, sentence in enumerate(unique)}
    return _pad([[table[row_of[sentence]] for sentence in record] for record in sentences], encoder.width)


def _pad(rows: Sequence[Sequence[Tensor]], width: int) -> ReportMemory:
    longest = max((len(row) for row in rows), default=0) or 1
    tokens = torch.zeros(len(rows), longest, width)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for position, row in enumerate(rows):
        if row:
            tokens[position, : len(row)] = torch.stack(list(row))
            mask[position, : len(row)] = True
    return ReportMemory(tokens, mask)
