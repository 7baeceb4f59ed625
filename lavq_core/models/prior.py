"""The class prior: which disease code belongs where in the beat, as counts that add up over hospitals.

``prior[c, n, k]`` counts beats of superclass ``c`` whose token ``n`` carries code ``k``; the last column ``k = K``
counts tokens that were left normal. ``requests[c, s]`` counts the statements of a superclass that are its own. Both are
sums, so they suit aggregation and, later, noise. They tell what the federation has seen; which codes go together, and
with which patient, only the prior network knows (``lavq_core.models.prior_network``).
"""

from __future__ import annotations

import torch
from torch import Tensor


def count_codes(indices: Tensor, gate: Tensor, classes: Tensor, size: int) -> Tensor:
    """Count codes by superclass and place in the beat.

    Args:
        indices: ``(B, N)`` int64 codes.
        gate: ``(B, N)`` bool; a token outside the gate counts as left normal.
        classes: ``(B, C)`` weights of each record in each superclass, for example its share of abnormal labels.
        size: K.

    Returns:
        ``(C, N, K + 1)`` float32.
    """
    symbol = torch.where(gate, indices, torch.full_like(indices, size))  # (B, N) in 0..K
    tokens = indices.shape[1]
    cell = torch.arange(tokens, device=indices.device) * (size + 1) + symbol  # (B, N)
    per_record = torch.zeros(len(indices), tokens * (size + 1), device=indices.device)
    per_record.scatter_add_(1, cell, torch.ones_like(cell, dtype=torch.float32))  # (B, N (K+1))
    return (classes.T.float() @ per_record).reshape(-1, tokens, size + 1)


def draw_from_counts(prior: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
    """Draw symbols of twins from the counts alone, every token by itself.

    Args:
        prior: ``(C, N, K + 1)`` counts, on the CPU.
        classes: ``(B,)`` int64 superclasses.
        generator: CPU generator.

    Returns:
        ``(B, N)`` int64, a code or K for a token that is left normal; a class without counts edits nothing.
    """
    counts = prior[classes].clone()  # (B, N, K + 1)
    counts[..., -1] += 1e-6
    return torch.multinomial(counts.flatten(0, 1), 1, generator=generator).reshape(counts.shape[:2])


def draw_statements(requests: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one statement for each requested superclass ``(B,)``, as often as the federation has seen it: ``(B,)``."""
    return torch.multinomial(requests[classes] + 1e-9, 1, generator=generator).flatten()


def available_diseases(requests: Tensor) -> Tensor:
    """Superclasses other than NORM of which the federation has seen any record: int64 positions, ascending."""
    seen = requests.sum(1) > 0  # (C,)
    seen[0] = False
    return seen.nonzero().flatten()
