"""The beat frame: an ECG as one median beat, the places where it recurs, and what no beat explains.

A disease that leaves the rhythm alone changes every beat alike, so separator and editor work on the median beat and an
edit is written back at every beat (``write_back``): the beats of a twin agree, and noise, wander and breathing stay the
patient's own. Beats are aligned to a fraction of a sample (template matching after Woody, Med. Biol. Eng. 1967, here a
Gauss-Newton step on the shift): at 100 Hz half a sample is 5 ms, and an edit of a steep QRS written 5 ms off would
leave a notch.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from lavq_core.errors import DataError
from lavq_core.signals.interpolation import cut, fine_factor, upsample
from lavq_core.signals.rpeaks import find_r_peaks_batch

BEFORE, AFTER = 0.32, 0.64  # s around the R peak: P wave to the end of T
FEWEST_BEATS = 3  # of one shape, below which there is no median beat to speak of
_BEFORE_SHARE = 0.4  # of the RR interval belongs to the beat that follows, at most
_QRS = 0.12  # s around the R peak, matched for alignment
_FARTHEST = 0.03  # s, an R peak is moved by alignment at most
_ALIGNMENTS = 3
_ALIKE = 0.85  # correlation with the median beat above which a beat has the record's dominant shape
_LEVEL = 0.06  # s, start of the beat taken for its baseline
_AT_ONCE = 300  # beats framed together: at 100 Hz they stay in the processor's cache


@dataclass(frozen=True)
class Beats:
    """Beats of n ECGs; at most M of one record."""

    median: np.ndarray  # (n, 8, W) float32 mV, baseline removed; all 0 where fewer than 3 beats share a shape
    position: np.ndarray  # (n, M) float32, sample of each R peak, aligned; NaN where there is no beat
    start: np.ndarray  # (n, M) float32, first sample that belongs to the beat
    stop: np.ndarray  # (n, M) float32, first sample that no longer does
    dominant: np.ndarray  # (n, M) bool, the beat has the median's shape
    rr: np.ndarray  # (n,) float32 s, median RR interval; NaN with fewer than two beats
    valid: np.ndarray  # (n, W) bool, sample of the median that belongs to the beat, not to the next

    def __len__(self) -> int:
        return len(self.median)

    def take(self, rows: np.ndarray) -> Beats:
        """Select records."""
        return Beats(*(getattr(self, field.name)[rows] for field in fields(self)))

    def found(self) -> np.ndarray:
        """Tell which records have enough beats of one shape to be edited: (n,) bool."""
        return np.asarray(self.dominant.sum(axis=1) >= FEWEST_BEATS)

    def save(self, path: Path) -> None:
        """Write an ``.npz`` file of the fields; a reader sees the old file or the new one, never a half."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, **{field.name: getattr(self, field.name) for field in fields(self)})
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: Path) -> Beats:
        """Read what ``save`` wrote.

        Raises:
            DataError: the file cannot be read, or it is not one of ``save``.
        """
        try:
            with np.load(path) as stored:
                return cls(*(stored[field.name] for field in fields(cls)))
        except OSError as error:
            raise DataError(f"beats cannot be read from {path} ({error.strerror}): find them again") from None
        except Exception as error:  # np.load raises EOFError, BadZipFile, zlib.error, ValueError and more
            raise DataError(f"{path} is damaged ({type(error).__name__}): delete it and find the beats again") from None


def concatenate(parts: Sequence[Beats]) -> Beats:
    """Join records found apart, which may differ in their most beats M."""
    most = max(part.position.shape[1] for part in parts)

    def joined(name: str) -> np.ndarray:
        arrays = [getattr(part, name) for part in parts]
        if name not in ("position", "start", "stop", "dominant"):
            return np.concatenate(arrays)
        blank = False if name == "dominant" else np.nan
        widths = [((0, 0), (0, most - array.shape[1])) for array in arrays]
        return np.concatenate([np.pad(a, w, constant_values=blank) for a, w in zip(arrays, widths, strict=True)])

    return Beats(*(joined(field.name) for field in fields(Beats)))


def frame_length(sampling_rate: int) -> int:
    """Samples W of the beat frame."""
    return round(BEFORE * sampling_rate) + round(AFTER * sampling_rate)


def find_beats(signals: np.ndarray, sampling_rate: int) -> Beats:
    """Bring ECGs into the beat frame.

    Args:
        signals: ``(n, 8, T)`` mV.
        sampling_rate: Hz.
    """
    signals = np.asarray(signals, dtype=np.float32)
    peaks = find_r_peaks_batch(signals, sampling_rate)
    count = np.array([len(found) for found in peaks], dtype=np.int64)
    beats = _blank(len(signals), signals.shape[1], int(count.max(initial=1)), sampling_rate)
    for row in np.flatnonzero(count >= 2):
        beats.rr[row] = np.median(np.diff(peaks[row])) / sampling_rate
    for many in np.unique(count[count >= FEWEST_BEATS]):  # records with equally many beats are framed together
        rows, size = np.flatnonzero(count == many), max(1, _AT_ONCE // int(many))
        for begin in range(0, len(rows), size):
            chosen = rows[begin : begin + size]
            _frame(beats, chosen, signals[chosen], np.stack([peaks[row] for row in chosen]), sampling_rate)
    return beats


def owned(peaks: np.ndarray, sampling_rate: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Share records of T samples out among their beats: each beat's first sample and the first one after it.

    Args:
        peaks: ``(..., m)`` samples, ascending, at least two.
        sampling_rate: Hz.
        samples: T.

    Returns:
        ``(start, stop)``, ``(..., m)`` each.
    """
    rr = np.diff(peaks)
    before = np.minimum(BEFORE * sampling_rate, _BEFORE_SHARE * np.concatenate([rr[..., :1], rr], axis=-1))
    start = np.maximum(np.ceil(peaks - before), 0)
    following = np.concatenate([start[..., 1:], np.full_like(start[..., :1], samples)], axis=-1)
    return start, np.minimum(np.ceil(peaks + AFTER * sampling_rate), following)


def _blank(n: int, leads: int, most: int, rate: int) -> Beats:
    """n records without a beat."""
    W = frame_length(rate)
    return Beats(
        median=np.zeros((n, leads, W), np.float32),
        position=np.full((n, most), np.nan, np.float32),
        start=np.full((n, most), np.nan, np.float32),
        stop=np.full((n, most), np.nan, np.float32),
        dominant=np.zeros((n, most), bool),
        rr=np.full(n, np.nan, np.float32),
        valid=np.zeros((n, W), bool),
    )


def _frame(beats: Beats, rows: np.ndarray, signals: np.ndarray, peaks: np.ndarray, rate: int) -> None:
    """Fill in the ``rows`` of b records ``(b, 8, T)`` that have m R peaks each, ``(b, m)``."""
    before, W, factor = round(BEFORE * rate), frame_length(rate), fine_factor(rate)
    grid = np.arange(W) - before  # samples from the R peak
    start, stop = owned(peaks, rate, signals.shape[-1])
    at = peaks[..., None] + grid  # (b, m, W)
    inside = (at >= start[..., None]) & (at < stop[..., None])
    qrs = slice(*np.flatnonzero(np.abs(grid) <= _QRS * rate / 2)[[0, -1]] + [0, 1])
    farthest = int(np.ceil(_FARTHEST * rate))
    fine = upsample(signals, factor, (before + farthest, W - before + farthest + 1))

    def cut_out(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        step = np.rint(places * factor).astype(np.int64)
        pieces = cut(fine, step + farthest * factor, W)  # (b, m, 8, W)
        pieces -= pieces[..., : max(1, round(_LEVEL * rate))].mean(axis=-1, keepdims=True)
        return pieces, step / factor

    places, dominant = peaks.astype(np.float64), np.ones(peaks.shape, bool)
    for _ in range(_ALIGNMENTS):
        pieces, places = cut_out(places)
        median = _median(pieces, inside & (dominant | ~dominant.any(axis=1, keepdims=True))[..., None])
        places = places + _lag(pieces[..., qrs], median[..., qrs], np.gradient(median, axis=-1)[..., qrs])
        places = np.clip(places, peaks - farthest, peaks + farthest)
        dominant = _alike(pieces, median, inside)
    mask = inside & dominant[..., None]
    found = dominant.sum(axis=1) >= FEWEST_BEATS
    beats.median[rows[found]] = _median(cut_out(places)[0], mask)[found]
    beats.valid[rows[found]] = (mask.sum(axis=1) >= 0.5 * dominant.sum(axis=1, keepdims=True))[found]
    columns = np.arange(peaks.shape[1])
    for field, value in ((beats.position, places), (beats.start, start), (beats.stop, stop)):
        field[rows[:, None], columns] = value
    beats.dominant[rows[:, None], columns] = dominant


def _median(pieces: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Median over the beats that own a sample, ``(b, 8, W)``; where none does, the nearest owned one is held.

    Args:
        pieces: ``(b, m, 8, W)``.
        mask: ``(b, m, W)`` bool, beats and samples that count; one run of samples a beat, around its R peak.
    """
    ordered = np.full((*pieces.shape[:1], *pieces.shape[2:], pieces.shape[1]), np.inf, np.float32)  # (b, 8, W, m)
    np.copyto(ordered, pieces.transpose(0, 2, 3, 1), where=mask.transpose(0, 2, 1)[:, None])
    ordered.sort(axis=-1)  # those that do not count come last
    count = mask.sum(axis=1)  # (b, W)
    b, w = np.ogrid[: len(count), : count.shape[1]]
    halves = (ordered[b, :, w, np.maximum(count - 1, 0) // 2], ordered[b, :, w, count // 2])  # (b, W, 8) each
    middle = ((halves[0] + halves[1]) / 2).transpose(0, 2, 1)
    known, W = count > 0, count.shape[1]
    nearest = np.clip(np.arange(W), known.argmax(-1)[:, None], W - 1 - known[:, ::-1].argmax(-1)[:, None])  # (b, W)
    return np.take_along_axis(middle, nearest[:, None], axis=-1)


def _lag(pieces: np.ndarray, median: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Samples by which beats lie behind their median, by least squares on its slope: ``(b, m)``.

    Args:
        pieces: ``(b, m, 8, q)``, the beats' QRS.
        median: ``(b, 8, q)``.
        slope: ``(b, 8, q)``, the median's per sample.
    """
    centred = slope - slope.mean(axis=-1, keepdims=True)  # a beat's level in a lead does not count
    error = np.einsum("bmlq,blq->bm", pieces, centred) - np.einsum("blq,blq->b", median, centred)[:, None]
    return np.asarray(-error / np.maximum((slope**2).sum((1, 2)), 1e-6)[:, None])


def _alike(pieces: np.ndarray, median: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Tell which beats correlate with the median over the samples that they own: ``(b, m)`` bool."""
    own = pieces * inside[:, :, None]  # (b, m, 8, W)
    dot = np.einsum("bmlw,blw->bm", own, median)
    power = np.einsum("bmw,bw->bm", inside, (median**2).sum(axis=1))
    size = np.sqrt(np.einsum("bmlw,bmlw->bm", own, own) * power)
    return np.asarray(dot >= _ALIKE * np.maximum(size, 1e-6))
