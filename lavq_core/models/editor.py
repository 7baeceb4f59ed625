"""The editor: heals a beat, or writes disease codes into it, inside an envelope and nowhere else.

``edit(x, gate, codes) = x + envelope(gate) * decode(content(x), codes)``. Outside the envelope the waveform is copied
exactly; with the null code instead of disease codes the same network heals. It edits the median beat; the edit is then
written back at every beat (``lavq_core.signals``). Only the 8 independent leads are written, the other four follow from
them, so Einthoven's law holds by construction.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lavq_core.models.blocks import BeatStem, TokenBlock, group_norm
from lavq_core.settings import CodebookConfig, SeparatorConfig
from lavq_core.signals.leads import INDEPENDENT_LEADS


def envelope(gate: Tensor, stride: int) -> Tensor:
    """Spread a gate over time with soft edges.

    Args:
        gate: ``(B, N)`` in 0..1.
        stride: samples a token, even.

    Returns:
        ``(B, N * stride)`` in 0..1: the gate held over each token's samples and smoothed by a Hann window one token
        wide, so that an edit does not start with a step and ends half a token outside the gate.
    """
    held = gate.repeat_interleave(stride, dim=-1)  # (B, W)
    window = torch.hann_window(stride + 3, periodic=False, device=gate.device, dtype=gate.dtype)[1:-1]
    smooth = F.conv1d(held[:, None], (window / window.sum())[None, None], padding=stride // 2)  # (B, 1, W)
    return smooth[:, 0].clamp(0.0, 1.0)


class Editor(nn.Module):
    """Content of a patient's beat and disease codes to a waveform.

    Args:
        config, codebook: sizes.
        tokens: N of a beat.
    """

    def __init__(self, config: SeparatorConfig, codebook: CodebookConfig, tokens: int) -> None:
        super().__init__()
        self.stride = config.stride
        width, leads = config.width, len(INDEPENDENT_LEADS)
        self.content = BeatStem(leads, width, config.stride, tokens, config.blocks)
        self.null = nn.Parameter(torch.zeros(codebook.dim))
        # Codes are unit vectors: normalised to unit variance, they speak as loud as the content.
        self.code = nn.Sequential(nn.LayerNorm(codebook.dim, elementwise_affine=False), nn.Linear(codebook.dim, width))
        self.blocks = nn.Sequential(*(TokenBlock(width, 2 ** (i % 3)) for i in range(config.blocks)))
        self.norm = group_norm(width)
        # Kernel and stride that divide evenly leave no checkerboard (Odena et al. 2016).
        self.paint = nn.ConvTranspose1d(width, leads, 3 * config.stride, stride=config.stride, padding=config.stride)
        with torch.no_grad():
            self.paint.weight.mul_(0.1)  # an untrained editor changes next to nothing

    def draw(self, x: Tensor, covariates: Tensor, gate: Tensor, codes: Tensor | None) -> Tensor:
        """What would be added if the envelope were 1 everywhere: ``(B, 8, W)`` mV; arguments as in ``change``."""
        content = self.content(x, covariates)  # (B, width, N)
        filling = self.null.expand(*gate.shape, -1) if codes is None else codes  # (B, N, D)
        written = self.code(filling) * gate.unsqueeze(-1)  # (B, N, width)
        h = self.blocks(content + written.transpose(1, 2))  # (B, width, N)
        return self.paint(F.gelu(self.norm(h)))

    def change(self, x: Tensor, covariates: Tensor, gate: Tensor, codes: Tensor | None) -> Tensor:
        """What would be added to beats whose content is ``x``: ``(B, 8, W)`` mV, 0 outside the envelope.

        Args:
            x: ``(B, 8, W)`` mV, median beats.
            covariates: ``(B, 3)``.
            gate: ``(B, N)`` in 0..1, N = W / stride.
            codes: ``(B, N, D)`` quantised disease codes, or None to heal.
        """
        return envelope(gate, self.stride).unsqueeze(1) * self.draw(x, covariates, gate, codes)

    def forward(self, x: Tensor, covariates: Tensor, gate: Tensor, codes: Tensor | None) -> Tensor:
        """Edit beats; arguments as in ``change``. Equal to ``x`` wherever the envelope of the gate is 0."""
        return x + self.change(x, covariates, gate, codes)
