"""Codebooks of a few codes and the statistics of made-up patients, for tests."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from lavq_core.data.labels import SUPERCLASSES, diagnostic_statements
from lavq_core.models.codebook import (
    STATISTICS,
    CodebookState,
    code_statistics,
    initial_codebook,
    quantise,
)
from lavq_core.models.prior import count_codes
from lavq_core.settings import CodebookConfig

K, D, N = 7, 5, 20
C, S = len(SUPERCLASSES), len(diagnostic_statements())
SEEDS = st.integers(0, 2**32 - 1)
CONFIG = CodebookConfig(size=K, dim=D)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=rng(seed)), dim=-1)


def first_state() -> CodebookState:
    return initial_codebook(CONFIG, N, 0)


def records(seed: int, count: int) -> list[dict[str, Tensor]]:
    """The statistics of single records: latents of N tokens, quantised, counted and summed.

    They are rounded to 1 / 4096, so that float32 adds them up without an error.
    """
    generator = rng(seed)
    codes = first_state()["codes"]
    found = []
    for _ in range(count):
        latents = torch.randn(1, N, D, generator=generator)
        gate = torch.rand(1, N, generator=generator) < 0.6
        weights = torch.randint(5, (1, C), generator=generator) / 4
        statements = (torch.rand(1, S, generator=generator) < 0.1).float()
        _, indices = quantise(latents, codes)
        part = {
            **code_statistics(latents, indices, gate, K),
            "prior": count_codes(indices, gate, weights, K),
            "requests": weights.T @ statements,
        }
        found.append({name: (4096 * value).round() / 4096 for name, value in part.items()})
    return found


def add_up(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The sum of some records' statistics in float32, as a site computes it; zeros for no record."""
    empty = first_state()
    total = {name: torch.zeros_like(empty[name]) for name in STATISTICS}
    for part in parts:
        for name in STATISTICS:
            total[name] += part[name]
    return total


def assert_equal_states(first: CodebookState, second: CodebookState, tolerance: float = 1e-5) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=tolerance, atol=tolerance, msg=f"{name} differs")
