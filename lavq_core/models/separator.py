"""The separator: finds, guided by the report, which stretches of an ECG carry disease, and codes them.

After the paper's separator (Hu et al. 2024, section 3.2) as it is meant: tokens keep time, the report answers by real
cross-attention, the gate passes gradient straight through (Bengio et al. 2013), and only gated tokens are coded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lavq_core.config import CodebookConfig, SeparatorConfig
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.models.blocks import ReportAttention, TokenStem, group_norm
from lavq_core.signals.leads import INDEPENDENT_LEADS


@dataclass
class Separation:
    """What the separator says of a batch."""

    probability: Tensor  # (B, N) gate probability
    gate: Tensor  # (B, N) 0 or 1, gradient of the probability
    latents: Tensor  # (B, N, D), not yet quantised


class Separator(nn.Module):
    """ECG and report tokens to gate and latents."""

    def __init__(self, config: SeparatorConfig, codebook: CodebookConfig, memory_width: int) -> None:
        super().__init__()
        self.threshold = config.gate_threshold
        self.stem = TokenStem(len(INDEPENDENT_LEADS), config.width, config.stride, config.blocks)
        self.norm = group_norm(config.width)
        self.attention = ReportAttention(config.width, memory_width, config.heads)
        self.mix = nn.Sequential(
            nn.Linear(3 * config.width, 2 * config.width), nn.GELU(), nn.Linear(2 * config.width, config.width)
        )
        self.gate = nn.Linear(config.width, 1)
        # Normalised and without a bias: latents that share a large common part all fall to one code.
        self.latent = nn.Sequential(
            nn.LayerNorm(config.width, elementwise_affine=False), nn.Linear(config.width, codebook.dim, bias=False)
        )

        self.closure = nn.Linear(codebook.dim, len(SUPERCLASSES))

    def read_codes(self, quantised: Tensor) -> Tensor:
        """Say from each code alone which superclasses its record has (text closure).

        Token by token, not from a record's mean: the prior mixes codes of many records, so each must carry its disease
        by itself.

        Args:
            quantised: ``(B, N, D)``.

        Returns:
            Logits ``(B, N, 5)``.
        """
        return self.closure(quantised)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Separation:
        """Separate ECGs.

        Args:
            x: ``(B, 8, T)`` mV; T a multiple of the stride.
            memory: ``(B, L, memory_width)`` report tokens.
            mask: ``(B, L)`` bool, true where there is a token.
        """
        tokens = self.norm(self.stem(x)).transpose(1, 2)  # (B, N, width)
        answer = self.attention(tokens, memory, mask)  # (B, N, width)
        # The product lets the report choose among what the ECG shows, and the ECG among what the report says.
        h = F.gelu(self.mix(torch.cat([tokens, answer, tokens * answer], dim=-1)))  # (B, N, width)
        probability = torch.sigmoid(self.gate(h).squeeze(-1))  # (B, N)
        hard = (probability > self.threshold).float()
        return Separation(probability, hard + (probability - probability.detach()), self.latent(h))
