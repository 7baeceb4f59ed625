"""A fixed description of an ECG, the same for everybody: median beat, measures of its waves and rhythm, wavelet sizes.

Nothing in it was fitted to data: centres, scales and frequencies are round numbers from the textbook. So a site may
compute it freely, and a private detector needs to pay for nothing but the linear head on top (fixed features before
deep training under differential privacy: Tramer & Boneh, ICLR 2021, *Differentially Private Learning Needs Better
Features*, who take wavelet moduli after Oyallon & Mallat 2015).

===========  =====  ====================================================================================================
part         size   what
===========  =====  ====================================================================================================
beat          768   median beat, 8 leads of 96 samples, squashed at .5 mV
measures      173   QRS, PR, axis; R, S, Q, start and end of QRS, ST and T in 12 leads; RR and how it varies; 0 and a
                    flag where there is none
wavelets      320   per lead and each of 10 frequencies: mean, root mean square, mean and spread of each second's most
===========  =====  ====================================================================================================
"""

from __future__ import annotations

import warnings

import numpy as np
import scipy.fft
from scipy.signal import resample_poly

from lavq_core.signals.beats import Beats, find_beats, frame_length
from lavq_core.signals.criteria import (
    frontal_axis,
    initial_voltage,
    pr_interval,
    qrs_duration,
    r_peak_time,
    st_level,
    t_amplitude,
    terminal_voltage,
)
from lavq_core.signals.delineation import delineate
from lavq_core.signals.leads import INDEPENDENT_LEADS

RATE = 100  # Hz, at which ECGs are described
VERSION = 1  # raised whenever the description changes
SHORTEST = 2.0  # s
BEAT_SAMPLES = frame_length(RATE)  # of the median beat in each lead
BEAT_SCALE = 0.5  # mV, at which the median beat is squashed

_FREQUENCIES = (0.7, 1.4, 2.5, 4.0, 6.0, 9.0, 13.0, 18.0, 25.0, 35.0)  # Hz, from breathing to the notches of QRS
_CYCLES = 0.8  # standard deviation of a Morlet wavelet's envelope, in periods
_REACH = 4.0  # standard deviations of its spectrum that are kept
_PADDING = 5.0  # s, of zeros, so that the end of a record does not ring in its beginning
_TYPICAL, _SPREAD = 0.03, 1.5  # mV and natural logarithm: of a wavelet's size
_MEASURES = 173
SIZE = len(INDEPENDENT_LEADS) * (BEAT_SAMPLES + 4 * len(_FREQUENCIES)) + _MEASURES


def describe(signals: np.ndarray, sampling_rate: int, beats: Beats | None = None) -> np.ndarray:
    """Describe ECGs.

    Args:
        signals: ``(n, 8, T)`` mV, T at least 2 s.
        sampling_rate: Hz, a multiple of 100.
        beats: of the same ECGs at 100 Hz, where they are known; else they are found.

    Returns:
        ``(n, SIZE)`` float32, each part of norm at most 1. A record without three beats of one shape has no beat and
        no measures: these are 0.

    Raises:
        ValueError: another rate, or too short.
    """
    signals = np.asarray(signals, dtype=np.float32)
    if sampling_rate % RATE or signals.shape[-1] < SHORTEST * sampling_rate:
        raise ValueError(f"describe takes {SHORTEST:g} s or more at a multiple of {RATE} Hz")
    if sampling_rate != RATE:
        signals = resample_poly(signals, 1, sampling_rate // RATE, axis=-1).astype(np.float32)
    beats = find_beats(signals, RATE) if beats is None or sampling_rate != RATE else beats
    parts = (np.tanh(beats.median / BEAT_SCALE), np.tanh(measures(beats)), np.tanh(wavelet_sizes(signals)))
    flat = [part.reshape(len(signals), -1) for part in parts]
    return np.concatenate([part / np.sqrt(part.shape[1]) for part in flat], axis=1, dtype=np.float32)


def measures(beats: Beats) -> np.ndarray:
    """Measure waves and rhythm in units of their usual spread: ``(n, 173)``; 0 and a flag where there is none."""
    marks = delineate(beats.median, RATE)
    nothing = np.full((len(beats), 1), np.nan)  # where no record has two beats
    gap = np.concatenate([np.diff(beats.position, axis=1) / RATE, nothing], axis=1)  # (n, M) s, NaN without a beat
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of rows without a beat, which are NaN as they should be
        spread, jump = np.nanstd(gap, axis=1), np.sqrt(np.nanmean(np.diff(gap, axis=1) ** 2, axis=1))
        ratio = np.nanmax(gap, axis=1) / np.nanmin(gap, axis=1)
    axis = np.radians(frontal_axis(marks))
    beating = np.isfinite(beats.position).sum(axis=1)
    columns = [
        _column(qrs_duration(marks), 95, 25),
        _column(pr_interval(marks), 150, 35),
        _column(np.stack([np.cos(axis), np.sin(axis)], axis=1), 0, 0.7),
        _column(marks.r, 0.6, 0.6),
        _column(marks.s, 0.5, 0.5),
        _column(r_peak_time(marks), 40, 20),
        _column(initial_voltage(marks), 0, 0.15),
        _column(terminal_voltage(marks), 0, 0.3),
        _column(st_level(marks), 0, 0.1),
        _column(marks.mean(marks.offset + 5, marks.offset + 40), 0, 0.1),  # ST's first 70 ms
        _column(marks.mean(marks.offset + 60, marks.offset + 150), 0.1, 0.2),
        _column(t_amplitude(marks), 0.2, 0.3),
        _column(marks.mean(marks.offset + 100, marks.offset + 115), 0.1, 0.2),
        _column(marks.leads[..., -25:].mean(axis=-1), 0, 0.1),  # after T
        _column(marks.mean(marks.p_onset, marks.onset - 20), 0.05, 0.06),
        _column(beats.rr, 0.85, 0.25),
        _column(spread, 0.06, 0.1),
        _column(jump, 0.06, 0.12),
        _column(ratio, 1.2, 0.5),
        _column(beats.dominant.sum(axis=1) / np.maximum(beating, 1), 1, 0.2),
    ]
    return np.concatenate(columns, axis=1)


def _column(values: np.ndarray, typical: float, spread: float) -> np.ndarray:
    """Standardise ``(n,)`` or ``(n, k)`` by public constants and add a flag: ``(n, k + 1)``."""
    values = values[:, None] if values.ndim == 1 else values
    missing = ~np.isfinite(values)
    standard = (np.where(missing, typical, values) - typical) / spread
    return np.concatenate([standard, missing[:, :1]], axis=1)


def wavelet_sizes(signals: np.ndarray) -> np.ndarray:
    """Measure the size of Morlet wavelets' responses, as logarithms: ``(n, 8, 10, 4)`` of ``(n, 8, T)`` at 100 Hz."""
    samples = signals.shape[-1]
    length = scipy.fft.next_fast_len(samples + round(_PADDING * RATE), real=True)
    spectrum = scipy.fft.rfft(signals - signals.mean(axis=-1, keepdims=True), length)  # (n, 8, F)
    sizes = []
    for frequency in _FREQUENCIES:
        envelope = _envelope(spectrum, length, frequency, samples)  # (n, 8, m)
        seconds = [part.max(axis=-1) for part in np.array_split(envelope, max(1, samples // RATE), axis=-1)]
        power = np.sqrt((envelope**2).mean(axis=-1))
        sizes.append(np.stack([envelope.mean(-1), power, np.mean(seconds, axis=0), np.std(seconds, axis=0)], axis=-1))
    stacked = np.stack(sizes, axis=2)  # (n, 8, 10, 4)
    return np.asarray(np.log(np.maximum(stacked, 1e-4) / _TYPICAL) / _SPREAD)


def _envelope(spectrum: np.ndarray, length: int, frequency: float, samples: int) -> np.ndarray:
    """Envelope of one frequency, mV, sampled as finely as its own band asks for: ``(n, 8, m)``, m >= 2 a second.

    The response of a wavelet holds only frequencies of its band: moved down to 0 it is the same envelope at fewer
    samples, at a fraction of the cost.
    """
    width = frequency / (2 * np.pi * _CYCLES)  # Hz, standard deviation of its spectrum
    bins = np.arange(spectrum.shape[-1]) * RATE / length
    inside = np.flatnonzero(np.abs(bins - frequency) <= _REACH * width)
    m = scipy.fft.next_fast_len(max(2 * len(inside), 2 * length // RATE))
    band = np.zeros((*spectrum.shape[:2], m), np.complex64)
    band[..., : len(inside)] = spectrum[..., inside] * np.exp(-0.5 * ((bins[inside] - frequency) / width) ** 2)
    envelope = np.abs(scipy.fft.ifft(band)) * (m / length)
    return np.asarray(envelope[..., : max(1, round(m * samples / length))])
