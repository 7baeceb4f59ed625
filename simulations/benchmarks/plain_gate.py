"""The quality gate as one would first write it: record by record and lead by lead.

The rules and their limits are those of ``lavq_core.signals.quality``; nothing is done for several records at once. It
is the reference of two benchmarks and holds no rule of its own.
"""

from __future__ import annotations

import numpy as np

from lavq_core.signals.leads import INDEPENDENT_INDEX, INDEPENDENT_LEADS, einthoven_residual
from lavq_core.signals.quality import (
    CLIPPED_LEVEL,
    CLIPPED_SHARE,
    CONSTANT,
    FASTEST,
    FLAT,
    IMPOSSIBLE,
    LARGE,
    OTHER_UNIT,
    RESIDUAL,
    SLOWEST,
    Quality,
    Verdict,
)
from lavq_core.signals.rpeaks import find_r_peaks


def judge(signal: np.ndarray, sampling_rate: float) -> Quality:
    """Judge one record ``(12, T)`` in mV that has all its leads."""
    rejections: list[str] = []
    flags: list[str] = []
    leads = dict(zip(INDEPENDENT_LEADS, signal[list(INDEPENDENT_INDEX)], strict=True))
    holes = [name for name, x in leads.items() if not np.isfinite(x).all()]
    _name(rejections, holes, "NaN in")
    leads = {name: np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0) for name, x in leads.items()}
    whole = {name: x for name, x in leads.items() if name not in holes}
    flat = [name for name, x in whole.items() if np.ptp(x) < FLAT]
    _name(rejections, flat, "flat lead")
    if len(flat) == len(leads) and max(np.ptp(x) for x in leads.values()) > FLAT / 1000.0:
        rejections.append("all leads within 20 uV, as of millivolts given as microvolts")
    clipped = [name for name, x in whole.items() if _clipped(x)]
    _name(rejections, clipped, "clipped lead")
    constant = [name for name, x in whole.items() if name not in (*flat, *clipped) and _constant(x, sampling_rate)]
    _name(flags, constant, f"constant for {CONSTANT:g} s:")
    largest = max(float(np.abs(x).max()) for x in leads.values())
    if largest > LARGE:
        other = max(float(np.ptp(x)) for x in leads.values()) > OTHER_UNIT
        hint = ", as of microvolts given as millivolts" if other else ""
        (rejections if largest > IMPOSSIBLE else flags).append(f"amplitude {largest:.1f} mV{hint}")
    residual = np.float32(einthoven_residual(signal))
    if not residual <= RESIDUAL and not holes:
        size = f"{1000 * residual:.0f} uV" if np.isfinite(residual) else "NaN"
        flags.append(f"limb leads break Einthoven's law by {size}")
    if not rejections and not _plausible(
        find_r_peaks(np.stack([*leads.values()]), sampling_rate), signal, sampling_rate
    ):
        rejections.append("no plausible R peaks")
    if rejections:
        return Quality(Verdict.REJECT, (*rejections, *flags))
    return Quality(Verdict.FLAG, tuple(flags)) if flags else Quality(Verdict.ACCEPT)


def _name(into: list[str], leads: list[str], what: str) -> None:
    if leads:
        into.append(f"{what} {', '.join(leads)}")


def _clipped(x: np.ndarray) -> bool:
    """Tell whether a lead ``(T,)`` stays at one of its extremes."""
    median = float(np.median(x))
    return any(
        (x == extreme).sum() >= CLIPPED_SHARE * len(x) and abs(float(extreme) - median) >= CLIPPED_LEVEL
        for extreme in (x.max(), x.min())
    )


def _constant(x: np.ndarray, sampling_rate: float) -> bool:
    """Tell whether a lead ``(T,)`` holds one value for long."""
    window, longest, run = round(CONSTANT * sampling_rate), 0, 0
    for same in x[1:] == x[:-1]:
        run = run + 1 if same else 0
        longest = max(longest, run)
    return longest >= window


def _plausible(peaks: np.ndarray, signal: np.ndarray, sampling_rate: float) -> bool:
    if len(peaks) < max(2.0, SLOWEST / 60.0 * signal.shape[-1] / sampling_rate):
        return False
    return 60.0 * sampling_rate * (len(peaks) - 1) / float(peaks[-1] - peaks[0]) <= FASTEST
