"""R peaks from all leads at once.

QRS complexes are where the leads change fastest, so the absolute slope summed over leads shows them whatever the axis
of the heart, and hardly sees baseline wander, P or T (the slope and moving window of Pan & Tompkins, IEEE Trans.
Biomed. Eng. 1985, on the spatial sum in place of one lead's square: an artefact of one lead then weighs less than a
beat, which all leads share). The threshold follows each record's own beats. Tuned on PTB-XL's sinus rhythms: of 2,680,
7 have a gap where a beat was missed and 46 an early beat, some of these true extrasystoles.
"""

from __future__ import annotations

import numpy as np
import scipy  # its parts are loaded when they are first used

from lavq_core.signals.leads import LEADS, to_independent

_SLOPE = 0.02  # s, span of the difference that stands for the slope
_QRS = 0.10  # s, window that gathers one complex's slopes
_REFRACTORY = 0.25  # s, two beats are further apart (240 per minute)
REFINE = 0.06  # s, either side of the steepest place in which the R peak is sought
_BASELINE = 0.6  # s, moving average taken for the baseline
_BLOCK = 1.5  # s, holds at least one beat at 40 per minute
_SMALLEST = 0.1  # mV, steepness of a typical beat; 0.88 at least in PTB-XL
_STANDS_OUT = 1.6  # typical beat over median steepness: in PTB-XL at least 1.86, in noise and sines at most 1.46
_WALL = 1e30  # mV, higher than any steepness
_LEVEL = 0.4  # threshold, relative to a typical beat's amplitude


def find_r_peaks(signal: np.ndarray, sampling_rate: float) -> np.ndarray:
    """Find the R peaks of one record.

    Args:
        signal: (8, T) or (12, T) in mV.
        sampling_rate: Hz.

    Returns:
        Sample numbers, ascending, int64 (beats,); empty when nothing stands out.
    """
    return find_r_peaks_batch(np.asarray(signal)[None], sampling_rate)[0]


def find_r_peaks_batch(signals: np.ndarray, sampling_rate: float) -> list[np.ndarray]:
    """Find the R peaks of each record of (n, 8, T) or (n, 12, T) in mV; see ``find_r_peaks``."""
    signals = np.asarray(signals, dtype=np.float32)
    if signals.shape[1] == len(LEADS):
        signals = to_independent(signals)
    record, place = _candidates(signals, sampling_rate)
    place = _refined(signals, record, place, sampling_rate)
    return _by_record(record, place, len(signals))


def find_candidates_batch(signals: np.ndarray, sampling_rate: float) -> list[np.ndarray]:
    """Find where QRS complexes are steepest: as many as R peaks, each at most ``REFINE`` from its own.

    Args:
        signals: (n, 8, T) in mV.
        sampling_rate: Hz.
    """
    return _by_record(*_candidates(np.asarray(signals, dtype=np.float32), sampling_rate), len(signals))


def _candidates(signals: np.ndarray, sampling_rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Steepest places of (n, 8, T): record and sample of each (beats,), in this order."""
    envelope = _steepness(signals, sampling_rate)  # (n, T), mV
    typical = _typical_beat(envelope, sampling_rate)  # (n,), mV
    median = np.median(envelope, axis=-1)  # (n,), mV
    beating = (typical > _SMALLEST) & (typical > _STANDS_OUT * median)  # else silence, noise, wander, or NaN
    # All records in one row, walls between them: no peak at a wall, none near enough to another record's to hide it.
    count, samples = envelope.shape
    apart = _samples(_REFRACTORY, sampling_rate)
    row = np.full((count, samples + apart), _WALL)
    row[:, :samples] = envelope
    least = np.full(row.shape, np.inf)
    least[beating, :samples] = _LEVEL * typical[beating, None].astype(np.float64)
    peaks, _ = scipy.signal.find_peaks(row.ravel(), height=least.ravel(), distance=apart)
    record, place = np.divmod(peaks, samples + apart)
    return record, place


def _refined(signals: np.ndarray, record: np.ndarray, place: np.ndarray, sampling_rate: float) -> np.ndarray:
    """Where near each steepest place (beats,) the leads are farthest from their baselines: (beats,)."""
    baseline = scipy.ndimage.uniform_filter1d(signals, _samples(_BASELINE, sampling_rate), axis=-1, mode="nearest")
    deflection = np.abs(signals - baseline).sum(axis=1)  # (n, T), mV
    reach = _samples(REFINE, sampling_rate)
    near = np.clip(place[:, None] + np.arange(-reach, reach + 1), 0, signals.shape[-1] - 1)  # (beats, window)
    farthest = deflection[record[:, None], near].argmax(axis=1)
    return np.asarray(near[np.arange(len(near)), farthest])


def _by_record(record: np.ndarray, place: np.ndarray, count: int) -> list[np.ndarray]:
    """Share samples out among ``count`` records, ascending and each once."""
    if count == 0:
        return []
    return [np.unique(own) for own in np.split(place, np.searchsorted(record, np.arange(1, count)))]


def _steepness(signals: np.ndarray, sampling_rate: float) -> np.ndarray:
    """Mean over a QRS-wide window of the absolute slope, summed over leads: (n, leads, T) -> (n, T), in mV."""
    span = _samples(_SLOPE, sampling_rate)
    samples = signals.shape[-1]
    slope = np.zeros((len(signals), samples), dtype=np.float32)
    slope[:, span // 2 : span // 2 + samples - span] = np.abs(signals[..., span:] - signals[..., :-span]).sum(axis=1)
    return scipy.ndimage.uniform_filter1d(slope, _samples(_QRS, sampling_rate), axis=-1, mode="constant")


def _typical_beat(envelope: np.ndarray, sampling_rate: float) -> np.ndarray:
    """Median over blocks of their maxima, which one artefact cannot raise: (n, T) -> (n,)."""
    window = min(_samples(_BLOCK, sampling_rate), envelope.shape[-1])
    count = envelope.shape[-1] // window
    blocks = envelope[:, : count * window].reshape(len(envelope), count, window)
    return np.median(blocks.max(axis=-1), axis=-1)


def _samples(seconds: float, sampling_rate: float) -> int:
    return max(round(seconds * sampling_rate), 1)
