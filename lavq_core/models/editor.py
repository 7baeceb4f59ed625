"""The editor: heals an ECG, or writes disease codes into it, inside an envelope and nowhere else.

``edit(x, gate, codes) = x + envelope(gate) * decode(content(x), codes)``. Outside the envelope the waveform is copied
exactly; with the null code instead of disease codes the same network heals. Only the 8 independent leads are written,
the other four follow from them, so Einthoven's law holds by construction.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lavq_core.config import CodebookConfig, SeparatorConfig
from lavq_core.models.blocks import TokenBlock, TokenStem, group_norm
from lavq_core.signals.leads import INDEPENDENT_LEADS

_SMOOTHING = 0.2  # tokens, standard deviation of the Gaussian over an edit


def envelope(gate: Tensor, stride: int) -> Tensor:
    """Spread a gate over time with soft edges.

    Args:
        gate: ``(B, N)`` in 0..1.
        stride: samples a token, even.

    Returns:
        ``(B, N * stride)`` in 0..1: the gate held over each token's samples and smoothed by a Hann window one token
        wide, so that an edit does not start with a step and ends half a token outside the gate.
    """
    held = gate.repeat_interleave(stride, dim=-1)  # (B, T)
    window = torch.hann_window(stride + 3, periodic=False, device=gate.device, dtype=gate.dtype)[1:-1]
    smooth = F.conv1d(held[:, None], (window / window.sum())[None, None], padding=stride // 2)  # (B, 1, T)
    return smooth[:, 0].clamp(0.0, 1.0)


def low_pass(change: Tensor, stride: int) -> Tensor:
    """Smooth an edit ``(B, leads, T)`` with a Gaussian of .2 token (16 ms; half the amplitude is left at 12 Hz).

    Unbounded in frequency, an editor that is trained against a detector finds that noise convinces it: the first twins
    were hoarse with it. P, ST, T and the width of QRS lie below; a sharper Q than this it cannot draw.
    """
    sigma, radius = _SMOOTHING * stride, max(1, round(3 * _SMOOTHING * stride))
    time = torch.arange(-radius, radius + 1, device=change.device, dtype=change.dtype)
    window = torch.exp(-0.5 * (time / sigma) ** 2)
    kernel = (window / window.sum()).expand(change.shape[1], 1, -1)  # (leads, 1, 2 radius + 1)
    return F.conv1d(change, kernel, padding=radius, groups=change.shape[1])


class Editor(nn.Module):
    """Content of a patient and disease codes to a waveform."""

    def __init__(self, config: SeparatorConfig, codebook: CodebookConfig) -> None:
        super().__init__()
        self.stride = config.stride
        width, leads = config.width, len(INDEPENDENT_LEADS)
        self.content = TokenStem(leads, width, config.stride, config.blocks)
        self.null = nn.Parameter(torch.zeros(codebook.dim))
        # Codes are unit vectors: normalised to unit variance, they speak as loud as the content.
        self.code = nn.Sequential(nn.LayerNorm(codebook.dim, elementwise_affine=False), nn.Linear(codebook.dim, width))
        self.blocks = nn.Sequential(*(TokenBlock(width, 2 ** (i % 3)) for i in range(config.blocks)))
        self.norm = group_norm(width)
        # Kernel and stride that divide evenly leave no checkerboard (Odena et al. 2016).
        self.paint = nn.ConvTranspose1d(width, leads, 3 * config.stride, stride=config.stride, padding=config.stride)
        with torch.no_grad():
            self.paint.weight.mul_(0.1)  # an untrained editor changes next to nothing

    def change(self, x: Tensor, gate: Tensor, codes: Tensor | None) -> Tensor:
        """What would be added to ECGs whose content is ``x``: ``(B, 8, T)`` mV, 0 outside the envelope.

        Args:
            x: ``(B, 8, T)`` mV.
            gate: ``(B, N)`` in 0..1, N = T / stride.
            codes: ``(B, N, D)`` quantised disease codes, or None to heal.
        """
        content = self.content(x)  # (B, width, N)
        filling = self.null.expand(*gate.shape, -1) if codes is None else codes  # (B, N, D)
        written = self.code(filling) * gate.unsqueeze(-1)  # (B, N, width)
        h = self.blocks(content + written.transpose(1, 2))  # (B, width, N)
        change = low_pass(self.paint(F.gelu(self.norm(h))), self.stride)  # (B, 8, T)
        return envelope(gate, self.stride).unsqueeze(1) * change

    def forward(self, x: Tensor, gate: Tensor, codes: Tensor | None) -> Tensor:
        """Edit ECGs; arguments as in ``change``. Equal to ``x`` wherever the envelope of the gate is 0."""
        return x + self.change(x, gate, codes)
