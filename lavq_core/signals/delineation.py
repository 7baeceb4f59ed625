"""Delineation of median beats: where QRS begins and ends, and where P begins.

The spatial velocity of all leads finds QRS; P is sought before it, along its own direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d

from lavq_core.signals.beats import BEFORE, frame_length
from lavq_core.signals.leads import INDEPENDENT_INDEX, to_twelve

GRID = 500  # Hz, of delineation: 100 Hz is band-limited to 50 Hz, so waves begin and end between its samples

R = round(BEFORE * GRID)  # sample of the R peak
_SLOPE = 5  # samples either side over which velocity is taken: 20 ms, which 100 Hz can show
_QRS = (-50, 60)  # samples around R within which a QRS moves fast
_FAST, _QUIET = 0.12, 0.08  # of the QRS's top velocity: certainly inside; outside, for LBBB's slurred end
_EDGE = 30  # samples beyond its last fast one within which a QRS ends, even where ST never gets quiet
_LEVEL = 10  # samples before QRS that give its level: the PR segment
_STILL = 0.02  # mV in 20 ms (all leads), top velocity below which there is no beat
_P_WIDTH, _P_GAP, _P_RISE = 8, 25, 60  # samples: scale of the curvature, nearest to QRS, longest rise
_P_LEAST = 0.02  # mV, curvature (all leads): 98 % of NORM records have more, 62 % of those with AFIB less


@dataclass(frozen=True)
class Landmarks:
    """Where the waves of n median beats begin and end, in samples at 500 Hz; NaN where there is no beat."""

    leads: np.ndarray  # (n, 12, F) mV over the level of the PR segment, order of ``LEADS``
    onset: np.ndarray  # (n,) QRS
    offset: np.ndarray  # (n,) QRS, the J point
    p_onset: np.ndarray  # (n,) NaN also where no P wave was found

    def inside(self, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """Mark samples from ``start`` to ``stop`` ``(n,)``, both included: ``(n, 1, F)`` bool, never empty."""
        time, last = np.arange(self.leads.shape[-1]), self.leads.shape[-1] - 1
        first = np.nan_to_num(start).clip(0, last)[:, None]
        final = np.maximum(np.nan_to_num(stop)[:, None], first)
        return np.asarray((time >= first) & (time <= final))[:, None]

    def mean(self, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """Mean voltage from ``start`` to ``stop``: ``(n, 12)`` mV."""
        mask = self.inside(start, stop)
        return np.asarray((self.leads * mask).sum(axis=-1) / mask.sum(axis=-1))

    @cached_property
    def qrs(self) -> np.ndarray:
        """Mark the QRS: ``(n, 1, F)`` bool."""
        return self.inside(self.onset, self.offset)

    @cached_property
    def r(self) -> np.ndarray:
        """Tallest positive deflection of the QRS: ``(n, 12)`` mV, at least 0."""
        return np.where(self.qrs, self.leads, -np.inf).max(axis=-1).clip(0)

    @cached_property
    def s(self) -> np.ndarray:
        """Deepest negative deflection of the QRS, Q or S: ``(n, 12)`` mV, at least 0."""
        return np.where(self.qrs, -self.leads, -np.inf).max(axis=-1).clip(0)


def delineate(median_beats: np.ndarray, rate: int) -> Landmarks:
    """Find QRS and P on the spatial velocity of median beats.

    A QRS lasts from the last quiet sample before its fast ones to the first quiet one after them; quiet and fast are
    shares of its own top velocity. P is the sharpest bump before it, in all leads together. Its onset is where
    the tangent to its steepest rise leaves the level before it.

    Args:
        median_beats: ``(n, 8, W)`` mV with the R peak at sample ``round(0.32 * rate)``; see ``find_beats``.
        rate: Hz.
    """
    beats = np.asarray(median_beats, dtype=np.float64)
    if beats.ndim != 3 or beats.shape[-1] != frame_length(rate):
        raise ValueError(f"expected beats (n, 8, {frame_length(rate)}) at {rate} Hz, got {beats.shape}")
    known = np.asarray(np.isfinite(beats).all(axis=(1, 2)))
    beats = to_twelve(np.where(known[:, None, None], beats, 0.0))  # (n, 12, W)
    time = np.arange(int((beats.shape[-1] - 1) * GRID / rate) + 1) / GRID
    fine = CubicSpline(np.arange(beats.shape[-1]) / rate, beats, axis=-1)(time)  # (n, 12, F)
    onset, offset, top = _qrs(fine[:, list(INDEPENDENT_INDEX)])
    p_onset = _p_onset(fine[:, list(INDEPENDENT_INDEX)], onset)
    here = known & (top > _STILL)
    level = Landmarks(fine, onset, offset, p_onset).mean(onset - _LEVEL, onset)[..., None]  # (n, 12, 1)
    fine = np.where(here[:, None, None], fine - level, np.nan)
    return Landmarks(fine, *(np.where(here, mark, np.nan) for mark in (onset, offset, p_onset)))


def _qrs(fine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """QRS onset and offset, and its top velocity, ``(n,)`` each, of ``(n, 8, F)``."""
    n, _, F = fine.shape
    time, velocity = np.arange(F), np.zeros((n, F))
    velocity[:, _SLOPE:-_SLOPE] = np.linalg.norm(fine[..., 2 * _SLOPE :] - fine[..., : -2 * _SLOPE], axis=1)
    near = (time >= R + _QRS[0]) & (time <= R + _QRS[1])
    top = np.where(near, velocity, 0).max(axis=1)
    fast = near & (velocity >= _FAST * top[:, None])
    first, last = fast.argmax(axis=1), F - 1 - fast[:, ::-1].argmax(axis=1)
    quiet = velocity < _QUIET * top[:, None]
    onset = np.where(quiet & (time < first[:, None]), time, 0).max(axis=1)
    offset = np.where(quiet & (time > last[:, None]), time, F).min(axis=1)
    return np.maximum(onset, first - _EDGE).astype(float), np.minimum(offset, last + _EDGE).astype(float), top


def _p_onset(fine: np.ndarray, onset: np.ndarray) -> np.ndarray:
    """Onset of P ``(n,)``, NaN without one, of ``(n, 8, F)``; no earlier than the frame, see ``pr_interval``."""
    rows, time = np.arange(len(fine)), np.arange(fine.shape[-1])
    curvature = -(_P_WIDTH**2) * gaussian_filter1d(fine, _P_WIDTH, order=2, axis=-1, mode="nearest")
    bump = np.linalg.norm(curvature.clip(0), axis=1)  # (n, F) mV
    bump = np.where(time < onset[:, None] - _P_GAP, bump, 0)
    peak = bump.argmax(axis=1)
    smooth = gaussian_filter1d(fine, 3, axis=-1, mode="nearest")
    before, after = np.maximum(peak - _P_RISE, 0), np.maximum(onset - _LEVEL, 0).astype(int)
    height = smooth[rows, :, peak] - (smooth[rows, :, before] + smooth[rows, :, after]) / 2  # (n, 8)
    wave = np.einsum("nl,nlf->nf", height, smooth)  # (n, F) along P's own direction
    slope = np.gradient(wave, axis=-1)
    rising = (time >= before[:, None]) & (time <= peak[:, None])
    steepest = np.where(rising, slope, -np.inf).argmax(axis=1)
    level = np.where(rising & (time <= steepest[:, None]), wave, np.inf).min(axis=1)
    rise = np.maximum(slope[rows, steepest], 1e-12)
    start = np.maximum(steepest - (wave[rows, steepest] - level) / rise, before)
    return np.where(bump[rows, peak] >= _P_LEAST, start, np.nan)
