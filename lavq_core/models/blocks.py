"""Pieces that several networks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


class TokenStem(nn.Module):
    """Signal to tokens that keep time: a strided convolution and residual blocks.

    Args:
        leads: input channels.
        width: channels of a token.
        stride: samples a token; the kernel is three strides wide.
        blocks: residual blocks, with dilations 1, 2, 4, 1, 2, ...
    """

    def __init__(self, leads: int, width: int, stride: int, blocks: int) -> None:
        super().__init__()
        self.embed = nn.Conv1d(leads, width, 3 * stride, stride=stride, padding=stride)
        self.blocks = nn.Sequential(*(TokenBlock(width, 2 ** (i % 3)) for i in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, leads, T)`` to ``(B, width, T / stride)``."""
        return self.blocks(self.embed(x))


class ReportAttention(nn.Module):
    """Cross-attention: ECG tokens ask, report tokens and one learned null token answer.

    Own few lines rather than ``nn.MultiheadAttention``: differential privacy needs per-sample gradients of it, and
    Opacus' replacement computes another function when batches come first.
    """

    def __init__(self, width: int, memory_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.null = nn.Parameter(torch.zeros(1, 1, memory_width))
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(memory_width, width)
        self.value = nn.Linear(memory_width, width)
        self.out = nn.Linear(width, width)
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
        B, N, width = tokens.shape
        memory = torch.cat([self.null.expand(B, -1, -1), self.loudness(memory)], dim=1)  # (B, 1 + L, memory_width)
        mask = torch.cat([mask.new_ones(B, 1), mask], dim=1)  # (B, 1 + L)
        split = (self.heads, width // self.heads)
        q = self.query(tokens).unflatten(-1, split).transpose(1, 2)  # (B, H, N, width / H)
        k = self.key(memory).unflatten(-1, split).transpose(1, 2)  # (B, H, 1 + L, width / H)
        v = self.value(memory).unflatten(-1, split).transpose(1, 2)  # (B, H, 1 + L, width / H)
        answer = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])  # (B, H, N, width / H)
        return self.out(answer.transpose(1, 2).reshape(B, N, width))
