"""The class prior: which disease code belongs where in the beat, as counts that add up over hospitals.

``prior[c, p, k]`` counts tokens of records of superclass ``c`` at beat phase ``p`` that carry code ``k``; the last
column ``k = K`` counts tokens that were left normal. It is all that a hospital needs to make twins of a disease it has
never seen (DESIGN section 4), and being a sum it suits aggregation and, later, noise.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BEFORE_R = 0.32  # s, tokens this close before an R peak are placed by it
AFTER_R = 0.64  # s, and this far behind one
BIN = 0.08  # s
_SHARPNESS = 2.0  # of the draw: codes that are typical of the disease are preferred to rare ones
_FLOOR = 1e-30  # a phase without counts can be drawn from; its gate is shut
PHASES = round(BEFORE_R / BIN) + round(AFTER_R / BIN) + 1  # ... and one phase for everything between beats


def beat_phases(r_peaks: np.ndarray, tokens: int, stride: int, sampling_rate: float) -> np.ndarray:
    """Place every token in its beat.

    Args:
        r_peaks: sample positions of R peaks, ascending.
        tokens: number of tokens N.
        stride: samples a token.
        sampling_rate: Hz.

    Returns:
        ``(N,)`` int64 in ``0 .. PHASES-1``: 80 ms bins before the next R peak (the P wave and PR segment), 80 ms bins
        after the last one (QRS, ST, T), and a last phase for the rest (TP). Before wins where beats are so fast that
        both apply.
    """
    times = (np.arange(tokens) + 0.5) * stride  # (N,) samples, centre of each token
    phases = np.full(tokens, PHASES - 1, dtype=np.int64)
    if len(r_peaks) == 0:
        return phases
    # In samples, not seconds: 0.24 s // 0.08 s is 2, and the phase of a token would depend on where the record starts.
    bin_width, before, after = (round(seconds * sampling_rate) for seconds in (BIN, BEFORE_R, AFTER_R))
    following = np.searchsorted(r_peaks, times)
    padded = np.concatenate([[-np.inf], r_peaks, [np.inf]])
    since, until = times - padded[following], padded[following + 1] - times
    bins_before = round(BEFORE_R / BIN)
    behind = since < after
    phases[behind] = bins_before + (since[behind] // bin_width).astype(np.int64)
    ahead = until <= before
    phases[ahead] = np.clip(bins_before - 1 - (until[ahead] // bin_width).astype(np.int64), 0, bins_before - 1)
    return phases


def count_codes(indices: Tensor, gate: Tensor, phases: Tensor, classes: Tensor, size: int) -> Tensor:
    """Count codes by superclass and beat phase.

    Args:
        indices: ``(B, N)`` int64 codes.
        gate: ``(B, N)`` bool; a token outside the gate counts as left normal.
        phases: ``(B, N)`` int64.
        classes: ``(B, C)`` weights of each record in each superclass, for example its share of abnormal labels.
        size: K.

    Returns:
        ``(C, PHASES, K + 1)`` float32.
    """
    symbol = torch.where(gate, indices, torch.full_like(indices, size))  # (B, N) in 0..K
    cell = phases * (size + 1) + symbol  # (B, N)
    per_record = torch.zeros(len(indices), PHASES * (size + 1), device=indices.device)
    per_record.scatter_add_(1, cell, torch.ones_like(cell, dtype=torch.float32))  # (B, P (K+1))
    return (classes.T.float() @ per_record).reshape(-1, PHASES, size + 1)


def sample_codes(
    prior: Tensor, classes: Tensor, phases: Tensor, strength: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw gate and codes of twins.

    One code is drawn per twin and beat phase, so that the beats of a twin agree; one threshold is drawn per twin, so
    that neighbouring phases are edited together, as they were in the patients behind the counts.

    Args:
        prior: ``(C, P, K + 1)`` counts.
        classes: ``(B,)`` int64, the requested superclass of each twin.
        phases: ``(B, N)`` int64 of the healthy ECGs.
        strength: 0 (nothing is edited) to 1.
        generator: of the device of ``prior``.

    Returns:
        ``(gate (B, N) float 0/1, codes (B, N) int64)``.
    """
    B, K = len(classes), prior.shape[-1] - 1
    counts = prior[classes]  # (B, P, K + 1)
    edited = counts[..., :K].sum(-1)  # (B, P)
    share = edited / counts.sum(-1).clamp_min(1e-6)  # (B, P)
    threshold = torch.rand(B, 1, generator=generator, device=prior.device)
    top = share.amax(dim=1, keepdim=True)  # at least the phase that is edited most often is always edited
    gate = (share >= top * (1.0 - strength * (1.0 - threshold))) & (share > 0) & (strength > 0)  # (B, P)
    weights = counts[..., :K].pow(_SHARPNESS) + _FLOOR  # (B, P, K)
    drawn = torch.multinomial(weights.reshape(B * PHASES, K), 1, generator=generator).reshape(B, PHASES)
    return gate.gather(1, phases).float(), drawn.gather(1, phases)
