"""The discriminator: are these beats real ones of patients with these statements?

A projection discriminator (Miyato and Koyama 2018) with spectral normalisation (Miyato et al. 2018) on median beats.
Class-conditional real abnormal beats teach the editor what a judge's score alone cannot: how such beats really look. It
never leaves the site, and is left out under differential privacy.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.signals.leads import INDEPENDENT_LEADS

_WIDTH, _FEATURES = 48, 96
_COARSE = 12  # samples of time that are left before the features are made


class Discriminator(nn.Module):
    """Beats and their statements to a score; higher is more real."""

    def __init__(self, memory_width: int, stride: int) -> None:
        super().__init__()
        leads = len(INDEPENDENT_LEADS)
        first = spectral_norm(nn.Conv1d(leads, _WIDTH, 2 * stride + 1, stride=stride // 2, padding=stride))
        self.net = nn.Sequential(
            first,
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv1d(_WIDTH, _WIDTH, 5, stride=2, padding=2)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv1d(_WIDTH, _WIDTH, 5, stride=2, padding=2)),
            nn.LeakyReLU(0.2),
            nn.AdaptiveAvgPool1d(_COARSE),
            nn.Flatten(),
            spectral_norm(nn.Linear(_WIDTH * _COARSE, _FEATURES)),
            nn.LeakyReLU(0.2),
        )
        self.score = spectral_norm(nn.Linear(_FEATURES, 1))
        self.condition = spectral_norm(nn.Linear(memory_width + len(SUPERCLASSES), _FEATURES, bias=False))

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor, y: Tensor) -> Tensor:
        """Score beats ``(B, 8, W)`` with statements ``(B, L, width)``, ``(B, L)`` and superclasses ``(B, 5)``: (B,)."""
        there = mask.unsqueeze(-1).float()  # (B, L, 1)
        said = (memory * there).sum(1) / there.sum(1).clamp_min(1.0)  # (B, width)
        h = self.net(x)  # (B, F)
        return self.score(h).squeeze(-1) + (h * self.condition(torch.cat([said, y], dim=1))).sum(-1)


def discriminator_loss(real: Tensor, made: Tensor) -> Tensor:
    """Hinge loss (Lim and Ye 2017) of scores ``(B,)`` of real and made beats."""
    return F.relu(1.0 - real).mean() + F.relu(1.0 + made).mean()
