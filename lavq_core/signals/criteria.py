"""Textbook criteria of diagnostic statements, measured on median beats.

A twin that a judge calls "left bundle branch block" should also be what a cardiology textbook calls one. ``delineate``
finds the waves of a median beat once; each function then measures one thing, and ``CRITERIA`` turns the measures into
one continuous score per statement (higher = more of it), so that AUCs can be computed. Sources: the AHA/ACCF/HRS
recommendations for the ECG (parts III, intraventricular conduction, Surawicz et al. 2009; IV, ST-T, Rautaharju et al.
2009; V, hypertrophy, Hancock et al. 2009), and those named at each function. Scores take the quantity of the criterion,
not its cut-off, with the exception of conjunctions ("wide, and late to the right"), which are the least of their
margins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d

from lavq_core.errors import ConfigError
from lavq_core.signals.beats import BEFORE, frame_length
from lavq_core.signals.leads import INDEPENDENT_INDEX, LEADS, to_twelve

GRID = 500  # Hz, of delineation: 100 Hz is band-limited to 50 Hz, so waves begin and end between its samples
STEP = 1000 / GRID  # ms

_R = round(BEFORE * GRID)  # sample of the R peak
_SLOPE = 5  # samples either side over which velocity is taken: 20 ms, which 100 Hz can show
_QRS = (-50, 60)  # samples around R within which a QRS moves fast
_FAST, _QUIET = 0.12, 0.08  # of the QRS's top velocity: certainly inside; outside, for LBBB's slurred end
_EDGE = 30  # samples beyond its last fast one within which a QRS ends, even where ST never gets quiet
_LEVEL = 10  # samples before QRS that give its level: the PR segment
_STILL = 0.02  # mV in 20 ms (all leads), top velocity below which there is no beat
_P_WIDTH, _P_GAP, _P_RISE = 8, 25, 60  # samples: scale of the curvature, nearest to QRS, longest rise
_P_LEAST = 0.02  # mV, curvature (all leads): 99 % of healthy P waves have more, 3 in 4 of fibrillating atria less
_T = (40, 230)  # samples after J and after R between which T has its extreme
_J60 = round(0.06 * GRID)
_LEAST_R = 0.1  # mV, a smaller deflection before Q is no R wave
_INFERIOR, _LATERAL, _SEPTAL = ("II", "III", "aVF"), ("I", "II", "V5", "V6"), ("V1", "V2", "V3")


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
    near = (time >= _R + _QRS[0]) & (time <= _R + _QRS[1])
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


def _of(values: np.ndarray, *names: str) -> np.ndarray:
    """Select leads of ``(n, 12, ...)``."""
    return values[:, [LEADS.index(name) for name in names]]


def qrs_duration(marks: Landmarks) -> np.ndarray:
    """QRS duration ``(n,)`` in ms."""
    return (marks.offset - marks.onset) * STEP


def pr_interval(marks: Landmarks) -> np.ndarray:
    """P onset to QRS onset ``(n,)`` in ms; NaN without P.

    A beat's frame opens 320 ms before R, or later in a fast rhythm: a longer interval is cut to what the frame holds.
    """
    return (marks.onset - marks.p_onset) * STEP


def sokolow_lyon(marks: Landmarks) -> np.ndarray:
    """S in V1 plus the taller R of V5 and V6 ``(n,)`` mV; 3.5 is hypertrophy (Sokolow & Lyon, Am. Heart J. 1949)."""
    return _of(marks.s, "V1")[:, 0] + _of(marks.r, "V5", "V6").max(axis=1)


def q_waves(marks: Landmarks) -> tuple[np.ndarray, np.ndarray]:
    """Q in II, III and aVF: duration in ms and depth in mV, ``(n, 3)`` each; 0 without Q.

    Q is what is negative before the first R of at least 0.1 mV, or the whole of a QS. From 30 ms and 0.1 mV in two
    leads it is a prior infarction (fourth universal definition, Thygesen et al. 2018, table 2).
    """
    y = _of(marks.leads, *_INFERIOR)
    r = marks.qrs & (y >= _LEAST_R)
    first = np.where(r.any(axis=-1), r.argmax(axis=-1), y.shape[-1])  # (n, 3)
    early = marks.qrs & (np.arange(y.shape[-1]) < first[..., None])
    depth = np.where(early, -y, -np.inf).max(axis=-1).clip(0)
    width = (early & (y < -0.1 * depth[..., None])).sum(axis=-1) * STEP  # at its foot: a tenth of the depth
    return np.where(np.isnan(depth), np.nan, width), depth


def initial_voltage(marks: Landmarks) -> np.ndarray:
    """Mean voltage of the first 20 ms of QRS ``(n, 12)`` in mV: the septum's r, gone in a Q of 20 ms."""
    return marks.mean(marks.onset, marks.onset + 20 / STEP)


def terminal_voltage(marks: Landmarks) -> np.ndarray:
    """Mean voltage from 40 to 8 ms before the end of QRS ``(n, 12)`` in mV: R' in V1, broad S in I and V6 of RBBB."""
    return marks.mean(marks.offset - 40 / STEP, marks.offset - 8 / STEP)


def net_share(marks: Landmarks) -> np.ndarray:
    """Area of QRS over its absolute area ``(n, 12)``: 1 a lone R, -1 a QS."""
    size = np.where(marks.qrs, np.abs(marks.leads), 0).sum(axis=-1)
    return np.where(marks.qrs, marks.leads, 0).sum(axis=-1) / np.maximum(size, 1e-9)


def r_peak_time(marks: Landmarks) -> np.ndarray:
    """From QRS onset to the highest voltage of QRS ``(n, 12)`` in ms; above 60 ms in V5 or V6 in LBBB."""
    peak = np.where(marks.qrs, marks.leads, -np.inf).argmax(axis=-1)
    return (peak - marks.onset[:, None]) * STEP


def frontal_axis(marks: Landmarks) -> np.ndarray:
    """Axis of QRS in the frontal plane ``(n,)`` in degrees, -180 to 180, from its areas in I and aVF.

    Goldberger's augmented leads are shorter than Einthoven's by the root of 3 over 2.
    """
    area = np.where(marks.qrs, _of(marks.leads, "I", "aVF"), 0).sum(axis=-1)
    return np.degrees(np.arctan2(area[:, 1] * 2 / np.sqrt(3), area[:, 0]))


def t_amplitude(marks: Landmarks) -> np.ndarray:
    """Extreme of T, signed ``(n, 12)`` in mV: the larger deflection from 80 ms after J to 460 ms after R."""
    mask = marks.inside(marks.offset + _T[0], np.full(len(marks.onset), _R + _T[1]))
    high = np.where(mask, marks.leads, -np.inf).max(axis=-1)
    low = np.where(mask, marks.leads, np.inf).min(axis=-1)
    return np.where(high >= -low, high, low)


def st_level(marks: Landmarks) -> np.ndarray:
    """Level of ST 60 ms after J ``(n, 12)`` in mV, over the PR segment."""
    return marks.mean(marks.offset + _J60 - 2, marks.offset + _J60 + 2)


def _left_bundle(marks: Landmarks) -> np.ndarray:
    """QRS from 120 ms, V1 mostly negative, R peak in I, V5 or V6 after 60 ms; margins in 20 ms, .2 and 10 ms."""
    wide = (qrs_duration(marks) - 120) / 20
    down = -_of(net_share(marks), "V1")[:, 0] / 0.2
    late = (_of(r_peak_time(marks), "I", "V5", "V6").max(axis=1) - 60) / 10
    return np.minimum.reduce([wide, down, late])


def _right_bundle(marks: Landmarks) -> np.ndarray:
    """QRS from 120 ms, late R in V1 and no deep S there, late S in I or V6; margins in 20 ms, .1 mV, .2 and .05 mV."""
    end = terminal_voltage(marks)
    wide = (qrs_duration(marks) - 120) / 20
    up = (_of(net_share(marks), "V1")[:, 0] + 0.3) / 0.2
    return np.minimum.reduce([wide, _of(end, "V1")[:, 0] / 0.1, up, -_of(end, "I", "V6").min(axis=1) / 0.05])


def _inferior_infarction(marks: Landmarks) -> np.ndarray:
    """Duration times depth of Q, mean over II, III, aVF, in mV ms."""
    duration, depth = q_waves(marks)
    return (duration * depth).mean(axis=1)


def _anteroseptal_infarction(marks: Landmarks) -> np.ndarray:
    """Q of 20 ms in V1-V3 (Thygesen et al. 2018): initial voltage, negated, in mV."""
    return -_of(initial_voltage(marks), *_SEPTAL).mean(axis=1)


def _left_anterior(marks: Landmarks) -> np.ndarray:
    """Axis from -45 to -90 degrees (Surawicz et al. 2009): cosine of the angle to the middle."""
    return np.cos(np.radians(frontal_axis(marks) + 67.5))


def _flat_t(marks: Landmarks) -> np.ndarray:
    """T flat, within .1 mV, and ST level, within .05 mV, in I, II, V5, V6 (Rautaharju et al. 2009)."""
    t, st = (_of(values, *_LATERAL).mean(axis=1) for values in (t_amplitude(marks), st_level(marks)))
    return np.minimum(1 - np.abs(t) / 0.1, 1 - np.abs(st) / 0.05)


def _ischaemia(marks: Landmarks) -> np.ndarray:
    """ST depressed and T inverted in I, II, V5, V6 (Rautaharju et al. 2009): their sum, negated, in mV."""
    return -_of(t_amplitude(marks) + st_level(marks), *_LATERAL).mean(axis=1)


CRITERIA: dict[str, Callable[[Landmarks], np.ndarray]] = {
    "CLBBB": _left_bundle,
    "CRBBB": _right_bundle,
    "LVH": sokolow_lyon,
    "IMI": _inferior_infarction,
    "ASMI": _anteroseptal_infarction,
    "1AVB": pr_interval,
    "NDT": _flat_t,
    "ISC_": _ischaemia,
    "LAFB": _left_anterior,
}
"""Per SCP statement, landmarks to a score ``(n,)``: higher = more of it, NaN where what it measures was not found."""


def criterion_score(statement: str, median_beats: np.ndarray, rate: int) -> np.ndarray:
    """Score median beats by a statement's criterion.

    Args:
        statement: a key of ``CRITERIA``.
        median_beats: ``(n, 8, W)`` mV; see ``delineate``.
        rate: Hz.

    Returns:
        ``(n,)``; NaN without a beat, and of 1AVB without a P wave.

    Raises:
        ConfigError: the statement has no criterion.
    """
    if statement not in CRITERIA:
        raise ConfigError(f"no textbook criterion for {statement!r}: choose one of {', '.join(CRITERIA)}")
    return CRITERIA[statement](delineate(median_beats, rate))
