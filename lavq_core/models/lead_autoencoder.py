"""An autoencoder of single leads: what it has seen often it writes again, noise it cannot.

Every 200 ms of a lead are one token; what lies before and after a token (1.8 s in all) helps to write it, and only
``CODE`` numbers of it pass. No normalisation: how large a deflection is, and on which level, is what noise is told by.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RATE = 100  # Hz, at which leads are read
TOKEN = 20  # samples
WIDTH, CODE = 32, 5  # channels, and those that pass: a quarter of a lead's numbers
_KERNEL = 5  # tokens


class LeadAutoencoder(nn.Module):
    """Leads in, codes and leads out."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.ModuleList(_conv(a, WIDTH) for a in (TOKEN, WIDTH))
        self.code = nn.Conv1d(WIDTH, CODE, 1)
        self.write = nn.ModuleList(_conv(a, WIDTH) for a in (CODE, WIDTH))
        self.out = nn.Conv1d(WIDTH, TOKEN, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map leads ``(B, T)`` in mV, T a multiple of ``TOKEN``, to codes ``(B, CODE, T / TOKEN)`` and ``(B, T)``."""
        h = x.unflatten(-1, (-1, TOKEN)).transpose(1, 2)  # (B, TOKEN, N)
        for layer in self.read:
            h = F.gelu(layer(h))
        code = y = self.code(h)  # (B, CODE, N)
        for layer in self.write:
            y = F.gelu(layer(y))
        return code, self.out(y).transpose(1, 2).flatten(1)


def build_lead_autoencoder(seed: int) -> LeadAutoencoder:
    """Make one whose weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LeadAutoencoder()


def _conv(channels_in: int, channels_out: int) -> nn.Conv1d:
    return nn.Conv1d(channels_in, channels_out, _KERNEL, padding=_KERNEL // 2)
