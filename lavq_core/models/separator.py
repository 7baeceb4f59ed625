"""The separator: finds, guided by the report, which phases of the beat carry disease, and codes them.

After the paper's separator (Hu et al. 2024, section 3.2) as it is meant: tokens keep time, the report answers by real
cross-attention, the gate passes gradient straight through (Bengio et al. 2013), and only gated tokens are coded. It
reads the median beat (``lavq_core.signals.beats``): what it finds holds for every beat of the record.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.models.blocks import BeatStem, ReportAttention, group_norm
from lavq_core.settings import CodebookConfig, SeparatorConfig
from lavq_core.signals.leads import INDEPENDENT_LEADS


@dataclass
class Separation:
    """What the separator says of a batch."""

    probability: Tensor  # (B, N) gate probability
    gate: Tensor  # (B, N) 0 or 1, gradient of the probability
    latents: Tensor  # (B, N, D), not yet quantised


class Separator(nn.Module):
    """Median beat and report tokens to gate and latents.

    Args:
        config, codebook: sizes.
        tokens: N of a beat.
        memory_width: of a report token.
    """

    def __init__(self, config: SeparatorConfig, codebook: CodebookConfig, tokens: int, memory_width: int) -> None:
        super().__init__()
        self.threshold = config.gate_threshold
        self.stem = BeatStem(len(INDEPENDENT_LEADS), config.width, config.stride, tokens, config.blocks)
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

    def forward(self, x: Tensor, covariates: Tensor, valid: Tensor, memory: Tensor, mask: Tensor) -> Separation:
        """Separate beats.

        Args:
            x: ``(B, 8, W)`` mV, median beats.
            covariates: ``(B, 3)``.
            valid: ``(B, N)`` 0 or 1; a token that belongs to the next beat is never gated.
            memory: ``(B, L, memory_width)`` report tokens.
            mask: ``(B, L)`` bool, true where there is a token.
        """
        tokens = self.norm(self.stem(x, covariates)).transpose(1, 2)  # (B, N, width)
        answer = self.attention(tokens, memory, mask)  # (B, N, width)
        # The product lets the report choose among what the ECG shows, and the ECG among what the report says.
        h = F.gelu(self.mix(torch.cat([tokens, answer, tokens * answer], dim=-1)))  # (B, N, width)
        probability = torch.sigmoid(self.gate(h).squeeze(-1)) * valid  # (B, N)
        hard = (probability > self.threshold).float()
        return Separation(probability, hard + (probability - probability.detach()), self.latent(h))
