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

import numpy as np

from lavq_core.errors import ConfigError
from lavq_core.signals.delineation import GRID, Landmarks, R, delineate
from lavq_core.signals.leads import LEADS

STEP = 1000 / GRID  # ms

_T = (40, 230)  # samples after J and after R between which T has its extreme
_J60 = round(0.06 * GRID)
_LEAST_R = 0.1  # mV, a smaller deflection before Q is no R wave
_INFERIOR, _LATERAL, _SEPTAL = ("II", "III", "aVF"), ("I", "II", "V5", "V6"), ("V1", "V2", "V3")


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
    mask = marks.inside(marks.offset + _T[0], np.full(len(marks.onset), R + _T[1]))
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
