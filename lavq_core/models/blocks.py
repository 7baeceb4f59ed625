"""Pieces that several networks share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

COVARIATES = 3  # log RR interval, age, sex: see ``lavq_core.training.guided.covariates``


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm (Wu and He 2018) with the largest number of groups up to 8 that divides the channels."""
    groups = max(g for g in range(1, 9) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


class TokenBlock(nn.Module):
    """Residual block that keeps the number of tokens; ``dilation`` widens what a token sees."""

    def __init__(self, width: int, dilation: int = 1, kernel: int = 5) -> None:
        super().__init__()
        self.norm = group_norm(width)
        self.mix = nn.Conv1d(width, width, kernel, padding=dilation * (kernel // 2), dilation=dilation)
        self.project = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, N)`` to ``(B, C, N)``."""
        return x + self.project(F.gelu(self.mix(F.gelu(self.norm(x)))))


class BeatStem(nn.Module):
    """Median beat to tokens that keep time: a strided convolution, the place in the beat, and residual blocks.

    Args:
        leads: input channels.
        width: channels of a token.
        stride: samples a token; the kernel is three strides wide.
        tokens: tokens of a beat N; each has a learned embedding, for it is always the same phase of the beat.
        blocks: residual blocks, with dilations 1, 2, 4, 1, 2, ...
    """

    def __init__(self, leads: int, width: int, stride: int, tokens: int, blocks: int) -> None:
        super().__init__()
        self.embed = nn.Conv1d(leads, width, 3 * stride, stride=stride, padding=stride)
        self.place = nn.Parameter(0.02 * torch.randn(width, tokens))
        self.patient = nn.Linear(COVARIATES, width)
        self.blocks = nn.Sequential(*(TokenBlock(width, 2 ** (i % 3)) for i in range(blocks)))

    def forward(self, x: Tensor, covariates: Tensor) -> Tensor:
        """Map ``(B, leads, W)`` and covariates ``(B, 3)`` to ``(B, width, N)``, N = W / stride."""
        return self.blocks(self.embed(x) + self.place + self.patient(covariates).unsqueeze(-1))


class Read(NamedTuple):
    """Keys and values of a memory."""

    keys: Tensor  # (B, H, L, width / H)
    values: Tensor  # (B, H, L, width / H)
    there: Tensor | None  # (B, 1, 1, L) bool, or None where all of it is there


class Attention(nn.Module):
    """Multi-head attention in a few lines.

    Not ``nn.MultiheadAttention``: differential privacy needs per-sample gradients of it, and Opacus' replacement
    computes another function when batches come first.
    """

    def __init__(self, width: int, memory_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(memory_width, width)
        self.value = nn.Linear(memory_width, width)
        self.out = nn.Linear(width, width)

    def read(self, memory: Tensor, mask: Tensor | None = None) -> Read:
        """Read ``memory (B, L, memory_width)`` once, to ``answer`` from often; ``mask (B, L)`` bool, true if there."""
        attended = None if mask is None else mask[:, None, None, :]
        return Read(self._split(self.key(memory)), self._split(self.value(memory)), attended)

    def answer(self, tokens: Tensor, read: Read) -> Tensor:
        """Answer ``tokens (B, N, width)`` from what was read."""
        q = self._split(self.query(tokens))
        answer = F.scaled_dot_product_attention(q, read.keys, read.values, attn_mask=read.there)  # (B, H, N, width / H)
        return self.out(answer.transpose(1, 2).flatten(2))  # (B, N, width)

    def forward(self, tokens: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """Answer ``tokens (B, N, width)`` from ``memory (B, L, memory_width)``; ``mask (B, L)`` bool, true if there."""
        return self.answer(tokens, self.read(memory, mask))

    def _split(self, x: Tensor) -> Tensor:
        """Share channels out among heads: ``(B, L, width)`` to ``(B, H, L, width / H)``."""
        return x.unflatten(-1, (self.heads, x.shape[-1] // self.heads)).transpose(1, 2)


class ReportAttention(nn.Module):
    """Cross-attention: ECG tokens ask, report tokens and one learned null token answer."""

    def __init__(self, width: int, memory_width: int, heads: int) -> None:
        super().__init__()
        self.null = nn.Parameter(torch.zeros(1, 1, memory_width))
        self.attention = Attention(width, memory_width, heads)
        # Unit vectors have entries of 1/sqrt(width): unscaled, the report would speak ten times softer than the ECG.
        self.loudness = nn.LayerNorm(memory_width, elementwise_affine=False)

    def forward(self, tokens: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Answer every ECG token from the report.

        Args:
            tokens: ``(B, N, width)``.
            memory: ``(B, L, memory_width)`` report tokens.
            mask: ``(B, L)`` bool, true where there is a token.

        Returns:
            ``(B, N, width)``.
        """
        return self.answer(tokens, self.read(memory, mask))

    def read(self, memory: Tensor, mask: Tensor) -> Read:
        """Read a report once; arguments as in ``forward``."""
        memory = torch.cat([self.null.expand(len(memory), -1, -1), self.loudness(memory)], dim=1)  # (B, 1 + L, ...)
        return self.attention.read(memory, torch.cat([mask.new_ones(len(mask), 1), mask], dim=1))

    def answer(self, tokens: Tensor, read: Read) -> Tensor:
        """Answer ECG tokens ``(B, N, width)`` from a report that was read."""
        return self.attention.answer(tokens, read)
