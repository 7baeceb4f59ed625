"""Band-limited interpolation: signals and frames between their samples.

A beat falls anywhere between two samples, and at 100 Hz a straight line between samples would cut a QRS down; the
Fourier interpolation used here is exact for a periodic signal without content above half the sampling rate.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy  # its parts are loaded when they are first used, which takes a second that most programs never spend
from numpy.lib.stride_tricks import sliding_window_view

_FINE = 800  # Hz, about, of the fine grid
_RAMP = 12  # samples at least, over which a record's end is led back to its beginning
_HELD = 32  # samples, either side of a frame


def fine_factor(sampling_rate: int) -> int:
    """Steps F of the fine grid per sample, two at least."""
    return max(2, round(_FINE / sampling_rate))


def upsample(signals: np.ndarray, factor: int, margins: tuple[int, int]) -> np.ndarray:
    """Interpolate records onto a grid of ``factor`` steps per sample.

    Args:
        signals: ``(b, 8, T)``.
        factor: F.
        margins: samples before and after a record, through which its ends are held. Beyond, the end is led back to the
            beginning: the periodic transform meets no step.

    Returns:
        ``(b, 8, F, L)`` float32: entry [f, t] lies at sample ``t - margins[0] + f / F``.
    """
    (left, right), samples = margins, signals.shape[-1]
    length = scipy.fft.next_fast_len(left + samples + right + _RAMP, real=True)
    padded = np.pad(signals, ((0, 0), (0, 0), (left, length - left - samples)), mode="edge")
    back = padded[..., left + samples + right :]
    back += np.linspace(0.0, 1.0, back.shape[-1], dtype=np.float32) * (padded[..., :1] - padded[..., -1:])
    cycles = np.arange(length // 2 + 1) / length  # per sample
    turn = np.exp(2j * np.pi * cycles * np.arange(1, factor)[:, None] / factor).astype(np.complex64)  # (F - 1, L/2 + 1)
    between = scipy.fft.irfft(scipy.fft.rfft(padded)[..., None, :] * turn, n=length, overwrite_x=True)
    return np.concatenate([padded[..., None, :], between], axis=-2)


def cut(fine: np.ndarray, step: np.ndarray, length: int) -> np.ndarray:
    """Cut pieces of ``length`` samples out of ``upsample``'s records.

    Args:
        fine: ``(b, 8, F, L)``.
        step: ``(b, m)`` int64 number of fine steps from the first margin's beginning to each piece's.
        length: W.

    Returns:
        ``(b, m, 8, W)``, a copy.
    """
    sample, between = np.divmod(step, fine.shape[2])
    windows = sliding_window_view(fine, length, axis=-1)  # (b, 8, F, L - W + 1, W)
    return windows[np.arange(len(fine))[:, None], :, between, sample]


@lru_cache(maxsize=4)
def shift_weights(length: int, factor: int) -> np.ndarray:
    """Weights ``(W, F + 1, W)`` float32 that take a frame of W samples f / F of a sample later, f from 0 to F.

    The frame is held beyond its ends, so that the filter rings outside.
    """
    held = np.pad(np.eye(length), ((0, 0), (_HELD, _HELD)), mode="edge")
    fine = scipy.signal.resample(held, factor * held.shape[-1], axis=-1)
    begin = factor * _HELD + np.arange(factor + 1)
    return np.stack([fine[:, i : i + factor * length : factor] for i in begin], axis=1).astype(np.float32)
