"""RR scaling: the same beats at another heart rate.

Between the end of T and the next P wave the heart rests, and that segment takes up most of a change of rate. So only
T-P segments are stretched or squeezed, all leads alike; P-QRS-T complexes keep every sample, and with them PR, QRS and
QT. In a heart, QT would follow by about the square root of RR (Bazett 1920): keep factors near 1 where that matters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from lavq_core.errors import ConfigError, DataError
from lavq_core.signals.rpeaks import find_r_peaks

_P_WAVE = 0.28  # s before the R peak by which a P wave begins, that of a long PR interval included
_P_SHARE = 0.36  # of the RR interval before the R peak, at most
_T_WAVE = 0.45  # s after the R peak by which T ends at 60 beats per minute; goes with the square root of RR
_FEWEST = 3  # beats, whose distances are the rate
_SHORTEST = 0.04  # s, what remains of a T-P segment at least
_MOST = 3.0  # times, a T-P segment is stretched at most: its noise is stretched with it


@dataclass(frozen=True)
class _Complexes:
    """The m P-QRS-T complexes of a record and the T-P segments between them, in samples."""

    start: np.ndarray  # (m,) int64, first of each complex
    stop: np.ndarray  # (m,) int64, first after it; of the last one the record's end, where T is cut off
    rr: np.ndarray  # (m - 1,) int64, RR intervals

    @property
    def rest(self) -> np.ndarray:
        """Lengths of the T-P segments, (m - 1,) int64."""
        return self.start[1:] - self.stop[:-1]


def scale_rr(signal: np.ndarray, sampling_rate: int, factor: float) -> np.ndarray:
    """Multiply the RR intervals of one record.

    A record that grows longer is cropped at its end. One that grows shorter goes on, after its last whole complex, with
    its own beats from the first T-P segment on, each lead raised or lowered to meet the end.

    Args:
        signal: ``(8, T)`` mV, or ``(12, T)``.
        sampling_rate: Hz.
        factor: over 1 slows the heart, below 1 quickens it; 1 returns the record.

    Returns:
        float32 mV in the shape of ``signal``.

    Raises:
        DataError: the record has too few beats, or no T-P segment between two of them.
        ConfigError: its T-P segments do not give the factor; see ``rr_limits``.
    """
    signal = np.asarray(signal, dtype=np.float32)
    complexes, samples = _complexes(signal, sampling_rate), signal.shape[-1]
    low, high = _limits(complexes, sampling_rate)
    if not low <= factor <= high:
        raise ConfigError(
            f"RR intervals of this record can be scaled by {np.ceil(100 * low) / 100:.2f} to"
            f" {np.floor(100 * high) / 100:.2f}, not by {factor:g}: its T-P segments give no more"
        )
    extra = np.diff(np.rint(np.cumsum(np.r_[0, complexes.rr]) * (factor - 1))).astype(np.int64)
    onward = _onward(complexes, complexes.rest + extra)
    pieces = [_read(signal, np.concatenate([np.arange(complexes.stop[0]), *onward]))]
    pieces.append(signal[:, complexes.stop[-1] :])
    if sum(piece.shape[-1] for piece in pieces) < samples:
        cut_off = complexes.stop[-1] == samples
        again = np.concatenate(onward[:-2] if cut_off else onward)
        pieces = [pieces[0][:, : len(again) + complexes.stop[0]]]
    while (length := sum(piece.shape[-1] for piece in pieces)) < samples:
        level = pieces[-1][:, -1:] - signal[:, complexes.stop[0] - 1, None]
        pieces.append(_read(signal, again[: samples - length]) + level)
    return np.concatenate(pieces, axis=-1)[:, :samples]


def rr_limits(signal: np.ndarray, sampling_rate: int) -> tuple[float, float]:
    """Return the least and the largest factor that ``scale_rr`` takes; 1 lies between them.

    Raises:
        DataError: as ``scale_rr``.
    """
    return _limits(_complexes(np.asarray(signal, dtype=np.float32), sampling_rate), sampling_rate)


def _complexes(signal: np.ndarray, rate: int) -> _Complexes:
    peaks = find_r_peaks(signal, rate)
    if len(peaks) < _FEWEST:
        raise DataError(f"{len(peaks)} R peaks found, {_FEWEST} needed to scale RR intervals: choose another record")
    rr = np.diff(peaks)
    earlier = np.r_[rr[:1], rr] / rate  # s, the RR interval before each beat
    start = np.ceil(peaks - rate * np.minimum(_P_WAVE, _P_SHARE * earlier)).astype(np.int64)
    stop = np.ceil(peaks + rate * _T_WAVE * np.sqrt(earlier)).astype(np.int64)
    complexes = _Complexes(np.maximum(start, 0), np.minimum(stop, signal.shape[-1]), rr)
    short = np.flatnonzero(complexes.rest < _SHORTEST * rate)
    if len(short):
        raise DataError(
            f"T and P waves leave nothing between the beats at {peaks[short[0]] / rate:.1f} and"
            f" {peaks[short[0] + 1] / rate:.1f} s:"
            " choose a record with a slower or steadier rhythm to scale RR intervals"
        )
    return complexes


def _limits(complexes: _Complexes, rate: int) -> tuple[float, float]:
    share = complexes.rest / complexes.rr
    low = 1 - (share - _SHORTEST * rate / complexes.rr).min()
    return float(low), float(1 + (_MOST - 1) * share.min())


def _onward(complexes: _Complexes, rest: np.ndarray) -> list[np.ndarray]:
    """Places in the record, read in turn after the first complex: T-P segment, complex, T-P segment, complex, ...

    Args:
        complexes: m of them.
        rest: ``(m - 1,)`` int64, samples that the T-P segments shall have.
    """
    places = []
    for i, many in enumerate(rest.tolist()):
        places.append(np.linspace(complexes.stop[i] - 1, complexes.start[i + 1], many + 2)[1:-1])
        places.append(np.arange(complexes.start[i + 1], complexes.stop[i + 1], dtype=np.float64))
    return places


def _read(signal: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Values ``(8, p)`` float32 at places ``(p,)``: at whole ones the samples themselves, between them by splines."""
    nearest = np.rint(places)
    between = np.abs(places - nearest) > 1e-9
    values = signal[:, nearest.astype(np.int64)]
    values[:, between] = CubicSpline(np.arange(signal.shape[-1]), signal, axis=-1)(places[between])
    return values
