"""The quality gate: accept, flag or reject each record, with reasons.

Rejected records are never used. Flagged ones are used and named. Above 5 mV a record is flagged and only above 10 mV
rejected: in PTB-XL 192 of 11,628 records exceed 5 mV, and 38 % of them carry hypertrophy (17 % of all do), because a
large ventricle makes large QRS complexes. Rejecting them would remove the disease, not the artefact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from lavq_core.signals.leads import (
    INDEPENDENT_INDEX,
    INDEPENDENT_LEADS,
    LEADS,
    einthoven_residual,
    known_leads,
    to_independent,
)
from lavq_core.signals.rpeaks import REFINE, find_candidates_batch, find_r_peaks

DURATION = 10.0  # s, of every record
OTHER_UNIT = 100.0  # mV, no heart's peak-to-peak: a common QRS of 1 mV in microvolts
FLAT = 0.02  # mV, a lead whose peak-to-peak stays below shows no heart
LARGE = 5.0  # mV, rarely physiological: flagged
IMPOSSIBLE = 10.0  # mV, artefact or a unit error: rejected
RESIDUAL = 0.05  # mV, limb leads further off Einthoven's law are swapped or in another unit: flagged
CONSTANT = 2.0  # s, a lead that holds one value this long was off for a while: flagged
CLIPPED_SHARE = 0.01  # of the samples exactly at a lead's extreme
CLIPPED_LEVEL = 1.0  # mV, the extreme's distance from the lead's median; below it is a quiet baseline, not a rail
SLOWEST, FASTEST = 20.0, 300.0  # beats per minute


class Verdict(StrEnum):
    """What becomes of a record."""

    ACCEPT = "accept"
    FLAG = "flag"
    REJECT = "reject"


@dataclass(frozen=True)
class Quality:
    """A verdict and its reasons (none when accepted)."""

    verdict: Verdict
    reasons: tuple[str, ...] = ()


def check_form(samples: int, sampling_rate: float, expected_rate: float, duration: float = DURATION) -> Quality:
    """Judge rate and length, which must fit before records can be stacked for ``assess``."""
    reasons = []
    if sampling_rate != expected_rate:
        reasons.append(f"sampled at {sampling_rate:g} Hz, expected {expected_rate:g} Hz")
    elif samples != round(duration * expected_rate):
        reasons.append(f"{samples / sampling_rate:g} s long, expected {duration:g} s")
    return Quality(Verdict.REJECT if reasons else Verdict.ACCEPT, tuple(reasons))


def assess(
    signals: np.ndarray, sampling_rate: float, present: np.ndarray | None = None, blank: np.ndarray | None = None
) -> list[Quality]:
    """Judge a batch of records of one length.

    Args:
        signals: (n, 12, T) in mV, canonical lead order.
        sampling_rate: Hz.
        present: (n, 12) bool, leads that the record has; all of them when left out.
        blank: (n, 12) bool, leads that are zero on purpose and not judged; none when left out.

    Returns:
        One ``Quality`` per record.
    """
    signals = np.asarray(signals, dtype=np.float32)
    if signals.ndim != 3 or signals.shape[1] != len(LEADS):
        raise ValueError(f"expected signals of shape (n, 12, T), got {signals.shape}")
    count = len(signals)
    if present is None:
        present = np.ones((count, len(LEADS)), dtype=bool)
    rejections: list[list[str]] = [[] for _ in range(count)]
    flags: list[list[str]] = [[] for _ in range(count)]

    left = np.zeros((count, len(INDEPENDENT_LEADS)), dtype=bool) if blank is None else blank[:, INDEPENDENT_INDEX]
    known = known_leads(present)[:, INDEPENDENT_INDEX]
    _name_leads(rejections, ~known & ~left, "missing lead")
    independent = to_independent(signals)  # (n, 8, T)
    top, bottom = independent.max(axis=-1), independent.min(axis=-1)  # (n, 8)
    holes = ~(np.isfinite(top) & np.isfinite(bottom))  # one NaN makes both NaN
    _name_leads(rejections, holes & known, "NaN in")
    independent[holes] = filled = np.nan_to_num(independent[holes], nan=0.0, posinf=0.0, neginf=0.0)
    top[holes], bottom[holes] = filled.max(axis=-1), filled.min(axis=-1)
    _judge_amplitude(independent, (top, bottom), holes | left, sampling_rate, rejections, flags)

    residual = einthoven_residual(signals)  # NaN where a limb lead has NaN
    for i in np.flatnonzero(~(residual <= RESIDUAL)).tolist():
        if not holes[i].any():
            size = f"{1000 * residual[i]:.0f} uV" if np.isfinite(residual[i]) else "NaN"
            flags[i].append(f"limb leads break Einthoven's law by {size}")
    sound = np.array([i for i in range(count) if not rejections[i]], dtype=np.int64)
    for i in sound[~_plausible(independent[sound], sampling_rate)]:
        rejections[i].append("no plausible R peaks")
    return [_verdict(r, f) for r, f in zip(rejections, flags, strict=True)]


def _judge_amplitude(
    independent: np.ndarray,
    extremes: tuple[np.ndarray, np.ndarray],
    holes: np.ndarray,
    rate: float,
    rejections: list[list[str]],
    flags: list[list[str]],
) -> None:
    """Flat, clipped, constant and large leads of (n, 8, T) without NaN; ``holes`` (n, 8) are not judged.

    ``extremes`` are each lead's largest and smallest value, (n, 8) each.
    """
    top, bottom = extremes
    flat = (top - bottom < FLAT) & ~holes
    _name_leads(rejections, flat, "flat lead")
    tiny = flat.all(axis=-1) & ((top - bottom).max(axis=-1, initial=0.0) > FLAT / 1000.0)
    for i in np.flatnonzero(tiny):
        rejections[i].append("all leads within 20 uV, as of millivolts given as microvolts")
    asked = top - bottom >= CLIPPED_LEVEL
    clipped = np.zeros_like(asked)
    clipped[asked] = _clipped(independent[asked], top[asked], bottom[asked])
    _name_leads(rejections, clipped & ~holes, "clipped lead")
    window = round(CONSTANT * rate)
    few = independent[..., :: max(1, window // 3)]  # a constant stretch has three of these in a row
    alike = few[..., 1:] == few[..., :-1]
    constant = (alike[..., 1:] & alike[..., :-1]).any(axis=-1)  # perhaps
    constant[constant] = _constant(independent[constant], window)
    _name_leads(flags, constant & ~flat & ~holes & ~clipped, f"constant for {CONSTANT:g} s:")
    largest = np.maximum(top, -bottom).max(axis=-1)  # (n,)
    for i in np.flatnonzero(largest > LARGE):
        into = rejections if largest[i] > IMPOSSIBLE else flags
        hint = ", as of microvolts given as millivolts" if (top - bottom)[i].max() > OTHER_UNIT else ""
        into[i].append(f"amplitude {largest[i]:.1f} mV{hint}")


def _clipped(leads: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Tell which leads (m, T) stay at one of their extremes, (m,) each: (m,) bool."""
    many = CLIPPED_SHARE * leads.shape[-1]
    at_top = (leads == top[:, None]).sum(axis=-1) >= many
    at_bottom = (leads == bottom[:, None]).sum(axis=-1) >= many
    median, asked = np.zeros_like(top), at_top | at_bottom  # of few leads, and a median costs more than all the rest
    median[asked] = np.median(leads[asked], axis=-1)
    return (at_top & (top - median >= CLIPPED_LEVEL)) | (at_bottom & (median - bottom >= CLIPPED_LEVEL))


def _constant(leads: np.ndarray, window: int) -> np.ndarray:
    """Tell which leads (m, T) hold one value over ``window`` neighbours: (m,) bool."""
    still = np.zeros(leads.shape, dtype=np.int32)  # running count of unchanged neighbours
    np.cumsum(leads[:, 1:] == leads[:, :-1], axis=-1, out=still[:, 1:])
    return (still[:, window:] - still[:, :-window] == window).any(axis=-1)


def _name_leads(into: list[list[str]], bad: np.ndarray, what: str) -> None:
    """Append ``what`` and the names of the ``bad`` (n, 8) leads to each record that has some."""
    for i in np.flatnonzero(bad.any(axis=1)):
        names = [lead for lead, is_bad in zip(INDEPENDENT_LEADS, bad[i], strict=True) if is_bad]
        into[i].append(f"{what} {', '.join(names)}")


def _plausible(independent: np.ndarray, sampling_rate: float) -> np.ndarray:
    """Tell in which records (n, 8, T) the beats' number and spacing could be a heart's: (n,) bool."""
    steepest = find_candidates_batch(independent, sampling_rate)
    fewest = max(2.0, SLOWEST / 60.0 * independent.shape[-1] / sampling_rate)
    plausible = np.array([len(places) >= fewest for places in steepest], dtype=bool)
    # R peaks lie so near to the steepest places that these alone nearly always show a rate below the fastest.
    nearer = 2 * REFINE * sampling_rate + 1.0  # samples, a bound
    unclear = [i for i in np.flatnonzero(plausible) if _rate(steepest[i], sampling_rate, nearer) > FASTEST]
    for i in unclear:
        plausible[i] = _rate(find_r_peaks(independent[i], sampling_rate), sampling_rate) <= FASTEST
    return plausible


def _rate(peaks: np.ndarray, sampling_rate: float, nearer: float = 0.0) -> float:
    """Beats per minute; ``inf`` if the first and the last may be so many samples nearer that nothing is left."""
    span = float(peaks[-1] - peaks[0]) - nearer
    return 60.0 * sampling_rate * (len(peaks) - 1) / span if span > 0 else np.inf


def _verdict(rejections: Sequence[str], flags: Sequence[str]) -> Quality:
    if rejections:
        return Quality(Verdict.REJECT, (*rejections, *flags))
    return Quality(Verdict.FLAG, tuple(flags)) if flags else Quality(Verdict.ACCEPT)
