"""How noisy an ECG is, learned from ECGs of which nobody said whether they are.

After the idea of Dua et al., *Automatic Detection of Noisy Electrocardiogram Signals without Explicit Noise Labels*
(2022): a network learns what leads look like, without labels (``lavq_core.models.lead_autoencoder``), and what is
unlike them is noise. Their second stage, distances from clusters of learned features, found less of what annotators
remark than this module's score, which is what the network could not write (``simulations.experiments.noise``): the
median size of the residual by second, which passes over QRS complexes, in the loudest second, compared with the same
lead of all other records.

**What is rare is also hard to write, and a rare disease is rare**: the score asks for a look and decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.signal import resample_poly
from torch import Tensor

from lavq_core.models.lead_autoencoder import RATE, TOKEN, LeadAutoencoder, build_lead_autoencoder

STEPS = 2000  # of the autoencoder

_BATCH, _CROP, _LR = 128, 12 * TOKEN, 2e-3  # leads, samples of each, peak of a one-cycle schedule
_LIMIT = 5.0  # mV, beyond which a lead is cut: farther off is no noisier
_QUIET = 1e-3  # mV, below which a residual says nothing
_AT_ONCE = 256  # records


@dataclass(frozen=True)
class NoiseScore:
    """Scores leads; the records that it learned from may be noisy themselves, if most are not."""

    network: LeadAutoencoder  # eval mode, CPU
    centre: np.ndarray  # (8,) of each lead's log residual
    scale: np.ndarray  # (8,)

    @classmethod
    def fit(cls, signals: np.ndarray, sampling_rate: int, seed: int = 0, steps: int = STEPS) -> NoiseScore:
        """Learn from ECGs ``(n, 8, T)`` in mV, at 100 Hz or a multiple."""
        leads = _leads(signals, sampling_rate)  # (n, 8, T')
        network = _train(torch.from_numpy(leads.reshape(-1, leads.shape[-1])), seed, steps)
        loudest = _described(network, leads)[..., -1]  # (n, 8)
        return cls(network, np.median(loudest, axis=0), loudest.std(axis=0) + 1e-6)

    def features(self, signals: np.ndarray, sampling_rate: int) -> np.ndarray:
        """Describe the leads of ECGs ``(n, 8, T)`` in mV: ``(n, 8, F)``.

        Mean and spread over time of every number of the code; then the log of the residual's median size (mV) by
        second, its mean and largest.
        """
        return _described(self.network, _leads(signals, sampling_rate))

    def __call__(self, signals: np.ndarray, sampling_rate: int) -> np.ndarray:
        """Score the leads of ECGs ``(n, 8, T)`` in mV: (n, 8) spreads above the median of that lead.

        A record is as noisy as its worst lead.
        """
        return (self.features(signals, sampling_rate)[..., -1] - self.centre) / self.scale


def _leads(signals: np.ndarray, sampling_rate: int) -> np.ndarray:
    """ECGs ``(n, 8, T)`` at 100 Hz, cut at 5 mV and to whole tokens: float32 ``(n, 8, T')``."""
    factor = sampling_rate // RATE
    at_rate = signals if factor == 1 else resample_poly(signals, 1, factor, axis=-1)
    whole = at_rate.shape[-1] // TOKEN * TOKEN
    return np.clip(at_rate[..., :whole], -_LIMIT, _LIMIT).astype(np.float32)


def _train(leads: Tensor, seed: int, steps: int) -> LeadAutoencoder:
    """Train on random stretches of leads ``(m, T)``, by mean absolute error: a QRS counts no more than what is flat."""
    network, generator = build_lead_autoencoder(seed), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=_LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LR, total_steps=max(2, steps))
    crop = min(_CROP, leads.shape[-1])
    for _ in range(steps):
        rows = torch.randint(len(leads), (_BATCH,), generator=generator)
        start = int(torch.randint(leads.shape[-1] - crop + 1, (), generator=generator))
        x = leads[rows, start : start + crop]  # (B, crop)
        loss = (network(x)[1] - x).abs().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def _described(network: LeadAutoencoder, leads: np.ndarray) -> np.ndarray:
    """See ``NoiseScore.features``; leads ``(n, 8, T)`` at 100 Hz."""
    parts = []
    for start in range(0, len(leads), _AT_ONCE):
        some = torch.from_numpy(leads[start : start + _AT_ONCE])  # (b, 8, T)
        code, again = network(some.flatten(0, 1))  # (8b, CODE, N), (8b, T)
        residual = (some.flatten(0, 1) - again)[:, : some.shape[-1] // RATE * RATE].unflatten(-1, (-1, RATE))
        size = residual.abs().median(dim=-1).values.clamp(min=_QUIET).log()  # (8b, seconds)
        found = [code.mean(dim=-1), code.std(dim=-1), size.mean(1, keepdim=True), size.amax(1, keepdim=True)]
        parts.append(torch.cat(found, dim=1).unflatten(0, some.shape[:2]).numpy())
    return np.concatenate(parts)
