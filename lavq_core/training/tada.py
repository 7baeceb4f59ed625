"""The time warp of a record that its detector finds hardest: adversarial augmentation in time.

After Lee, Kwon and Jo, *TADA: Temporal Adversarial Data Augmentation for Time Series Data* (2024). Moving samples is
not differentiable where they are read off a grid; a shift in time is a turn of phase in the frequency domain, and that
is. So a record is cut into overlapping windows, each is shifted by its own amount, and the gradient of the loss says
where to.

Two things are ours. The paper holds its samples near the original by a penalty on features; here no sample moves
farther than a bound, and neighbouring windows move nearly alike. And nothing is added to the training set: every second
record of a batch is replaced by its warp, so that a step stays a step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEPS, _STRIDE = 2, 0.25  # of ascent, each through the detector and back; and how far, in units of the bound
_KNOT = 1.0  # s between two free shifts: what lies between follows on a line
_HOP = 0.2  # s between windows, which are twice as long


def harden(
    model: nn.Module, x: Tensor, y: Tensor, farthest: float, sampling_rate: int, generator: torch.Generator
) -> Tensor:
    """Warp every second record of a batch so that its loss rises; the others stay as they are, and so do all labels.

    Args:
        model: the detector; its weights and their gradients are left alone, and dropout is off meanwhile.
        x: ``(B, 8, T)`` mV.
        y: ``(B, 5)`` labels.
        farthest: s, that a sample moves.
        sampling_rate: Hz.
        generator: on the device of ``x``; a warp starts from a random one, for where nothing moves nothing pulls.

    Returns:
        ``(B, 8, T)``, a new tensor without gradient.
    """
    some, labels, was_training = x[::2], y[::2], model.training
    knots = 1 + math.ceil(x.shape[-1] / (_KNOT * sampling_rate))
    pull = 2.0 * torch.rand(len(some), knots, generator=generator, device=x.device) - 1.0  # (b, K), shift / farthest
    model.eval()
    for _ in range(STEPS):
        pull.requires_grad_(True)
        logits = model(warp_by_phase(some, farthest * pull, sampling_rate)).float()
        (gradient,) = torch.autograd.grad(F.binary_cross_entropy_with_logits(logits, labels), pull)
        largest = gradient.abs().amax(dim=1, keepdim=True).clamp(min=1e-12)
        pull = (pull.detach() + _STRIDE * gradient / largest).clamp(-1.0, 1.0)
    model.train(was_training)
    out = x.clone()
    out[::2] = warp_by_phase(some, farthest * pull, sampling_rate)
    return out


def warp_by_phase(x: Tensor, shifts: Tensor, sampling_rate: int) -> Tensor:
    """Move what happens at each knot later by so many seconds; differentiable in both arguments.

    Hann windows, each turned in phase by exp(-2 pi i f s), are added and divided by what they add up to, so that a
    constant stays one. All leads move together. The record's first and last sample stand for what lies outside.

    Args:
        x: ``(B, 8, T)``.
        shifts: ``(B, K)`` s, at knots that are spread evenly from the record's beginning to its end.
        sampling_rate: Hz.

    Returns:
        ``(B, 8, T)``.
    """
    T, hop = x.shape[-1], max(1, round(_HOP * sampling_rate))
    room = 2 + math.ceil(float(shifts.detach().abs().amax()) * sampling_rate)  # beside a window, for what leaves it
    windows = math.ceil(T / hop) + 1  # the first is centred on sample 0
    left, right = hop, windows * hop - T
    padded = F.pad(x, (left, right), mode="replicate")  # (B, 8, (N + 1) hop)
    pieces = padded.unfold(-1, 2 * hop, hop)  # (B, 8, N, 2 hop)
    hann = torch.hann_window(2 * hop, device=x.device, dtype=x.dtype)
    centres = torch.arange(windows, device=x.device, dtype=x.dtype) * hop / max(1, T - 1)  # (N,), 0 to 1 and above
    moved = _at(shifts, centres.clamp(max=1.0))  # (B, N) s
    size = 2 * hop + 2 * room
    cycles = torch.fft.rfftfreq(size, 1.0 / sampling_rate, device=x.device, dtype=x.dtype)  # (f,) Hz
    turn = torch.exp(-2j * torch.pi * cycles * moved.unsqueeze(-1))  # (B, N, f)
    spectrum = torch.fft.rfft(F.pad(pieces * hann, (room, room)))  # (B, 8, N, f)
    shifted = torch.fft.irfft(spectrum * turn.unsqueeze(1), n=size)  # (B, 8, N, size)
    weight = torch.fft.irfft(torch.fft.rfft(F.pad(hann, (room, room))) * turn, n=size)  # (B, N, size)
    begin = left + room
    total = _overlap_add(weight, hop)[..., begin : begin + T].unsqueeze(1)  # (B, 1, T)
    return _overlap_add(shifted, hop)[..., begin : begin + T] / total.clamp(min=0.1)


def _at(shifts: Tensor, places: Tensor) -> Tensor:
    """Values on the lines between knots: ``(B, K)`` at ``places`` (N,) in 0 to 1, as ``(B, N)``."""
    where = places * (shifts.shape[1] - 1)
    below = where.floor().clamp(max=max(0, shifts.shape[1] - 2)).long()
    return torch.lerp(shifts[:, below], shifts[:, (below + 1).clamp(max=shifts.shape[1] - 1)], where - below)


def _overlap_add(pieces: Tensor, hop: int) -> Tensor:
    """Add pieces ``(..., N, size)``, each ``hop`` samples after the last, up: ``(..., (N - 1) hop + size)``."""
    *batch, count, size = pieces.shape
    length = (count - 1) * hop + size
    columns = pieces.flatten(0, -3).transpose(1, 2)  # (b, size, N)
    return F.fold(columns, (1, length), (1, size), stride=(1, hop)).view(*batch, length)
