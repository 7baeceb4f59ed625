"""What an ECG may look like on another day: random changes that keep its diagnosis."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lavq_core.settings import DetectorTrainingConfig


def augment(x: Tensor, config: DetectorTrainingConfig, sampling_rate: int, generator: torch.Generator) -> Tensor:
    """Shift, warp, rescale, wander, blur with noise and blank leads, each record on its own.

    Args:
        x: ``(B, 8, T)`` mV.
        config: sizes of the changes; 0 switches one off.
        sampling_rate: Hz.
        generator: on the device of ``x``.

    Returns:
        ``(B, 8, T)`` mV, a new tensor.
    """
    B, leads, T = x.shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=x.device)

    farthest = int(config.shift * sampling_rate)
    offsets = torch.randint(-farthest, farthest + 1, (B, 1, 1), generator=generator, device=x.device)
    index = (torch.arange(T, device=x.device) + offsets) % T  # (B, 1, T), circular
    out = x.gather(2, index.expand(B, leads, T))
    if config.warp > 0.0:
        out = warp_time(out, config.warp, sampling_rate, generator)
    out = out * (1.0 + config.amplitude * (2.0 * uniform(B, 1, 1) - 1.0))
    time = torch.arange(T, device=x.device) / sampling_rate  # (T,) s
    frequency, phase = 0.05 + 0.35 * uniform(B, 1, 1), 2.0 * math.pi * uniform(B, leads, 1)
    out = out + config.wander * uniform(B, leads, 1) * torch.sin(2.0 * math.pi * frequency * time + phase)
    out = out + config.noise * uniform(B, 1, 1) * torch.randn(B, leads, T, generator=generator, device=x.device)
    return out * (uniform(B, leads, 1) >= config.lead_dropout)


def warp_time(x: Tensor, farthest: float, sampling_rate: int, generator: torch.Generator) -> Tensor:
    """Let time run a little faster and slower: moves samples by up to ``farthest`` s along a sine of .05 to .3 Hz.

    All leads of a record move together. A sine this slow stretches a beat by at most 2 pi .3 ``farthest`` (9 % at
    .05 s), so that the width of a QRS keeps its meaning. Between samples the signal is interpolated linearly; the
    record's first and last sample stand for what lies outside.
    """
    B, leads, T = x.shape
    size, frequency, phase = torch.rand(3, B, 1, generator=generator, device=x.device)
    time = torch.arange(T, device=x.device)  # (T,) samples
    turns = (0.05 + 0.25 * frequency) * time / sampling_rate + phase  # (B, T)
    place = (time + farthest * sampling_rate * size * torch.sin(2.0 * math.pi * turns)).clamp(0, T - 1)  # (B, T)
    left = place.floor().clamp(max=max(0, T - 2)).long()
    share = (place - left).unsqueeze(1)  # (B, 1, T)
    here = left.unsqueeze(1).expand(B, leads, T)
    return torch.lerp(x.gather(2, here), x.gather(2, (here + 1).clamp(max=T - 1)), share)


def random_stretch(x: Tensor, seconds: float, sampling_rate: int, generator: torch.Generator) -> Tensor:
    """Cut one random stretch out of a batch, the same for all its records: ``(B, 8, T)`` to ``(B, 8, T')``.

    A stretch of some beats shows the diagnosis as the whole record does, for a fraction of the cost, and no two epochs
    see the same one. ``seconds`` of 0, or longer than the records, keeps them whole.
    """
    length = round(seconds * sampling_rate)
    if not 0 < length < x.shape[-1]:
        return x
    start = int(torch.randint(x.shape[-1] - length + 1, (), generator=generator, device=x.device))
    return x[..., start : start + length]
