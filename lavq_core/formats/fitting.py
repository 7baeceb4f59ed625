"""An ECG of any rate and length, brought to what the models were trained on.

Rates: a recording must hold the frequencies that the models read, so it must be sampled at least as fast as they are.
The one exception is 250 Hz for models at 500 Hz, as most recorders store it: what lies above 125 Hz is no part of the
diagnostic band (.05-150 Hz) but for its last sixth. 50 Hz is refused everywhere: a QRS complex reaches to 40 Hz.

Lengths: models are trained on 10 s. Of a longer recording 10 s are used, from 9 s on a shorter one is used as it is;
nothing is repeated or padded, for that would show beats, or a standstill, that never were.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
from scipy.signal import resample_poly

from lavq_core.data.records import Ecg
from lavq_core.errors import DataError
from lavq_core.signals.quality import DURATION

SHORTEST = 9.0  # s
FASTEST = 10_000.0  # Hz; above it the header is wrong
_SLOWEST = {500: 250.0}  # Hz, of recordings for models at that rate; others need the models' own
_TOKEN = 0.04  # s, the separator's step: a record has a whole number of them


def fit(ecg: Ecg, sampling_rate: int, start: float = 0.0) -> Ecg:
    """Resample an ECG and cut it to at most 10 s.

    Args:
        ecg: of any rate and length.
        sampling_rate: Hz wanted.
        start: s, where to begin.

    Returns:
        The ECG at that rate, 9 to 10 s long; ``notes`` say what was done.

    Raises:
        DataError: its rate or length is not sensible, or nothing is left after ``start``.
    """
    _check(ecg, sampling_rate, start)
    signal, notes = ecg.signal, list(ecg.notes)
    seconds = signal.shape[1] / ecg.sampling_rate
    if ecg.sampling_rate != sampling_rate:
        ratio = Fraction(sampling_rate / ecg.sampling_rate).limit_denominator(2000)
        # "edge" keeps what a gap (NaN) spoils to its neighbourhood; the default would spread it over the record.
        signal = resample_poly(signal, ratio.numerator, ratio.denominator, axis=1, padtype="edge").astype(np.float32)
        slow = ecg.sampling_rate < sampling_rate
        above = f", so it holds nothing above {ecg.sampling_rate / 2:g} Hz" if slow else ""
        notes.append(f"resampled from {ecg.sampling_rate:g} Hz to {sampling_rate} Hz{above}")
    first = round(start * sampling_rate)
    signal = signal[:, first : first + round(DURATION * sampling_rate)]
    token = round(_TOKEN * sampling_rate)
    signal = np.ascontiguousarray(signal[:, : signal.shape[1] // token * token])
    used = signal.shape[1] / sampling_rate
    if used < DURATION:
        notes.append(f"{used:g} s long, the models were trained on {DURATION:g} s")
    elif round(seconds * sampling_rate) > signal.shape[1]:
        notes.append(f"{start:g} to {start + used:g} s of {seconds:g} s are used")
    return replace(ecg, signal=signal, sampling_rate=float(sampling_rate), notes=tuple(notes))


def _check(ecg: Ecg, sampling_rate: int, start: float) -> None:
    slowest = _SLOWEST.get(sampling_rate, float(sampling_rate))
    if ecg.sampling_rate < slowest:
        raise DataError(
            f"record {ecg.name} is sampled at {ecg.sampling_rate:g} Hz where {slowest:g} Hz or more is needed: "
            "what is missing cannot be computed, give a recording at its original rate"
        )
    if ecg.sampling_rate > FASTEST:
        raise DataError(f"record {ecg.name} says {ecg.sampling_rate:g} Hz, which is no ECG's rate: give the right one")
    if not start >= 0.0:
        raise DataError("a recording cannot be used from before its start: give --start 0 or later")
    seconds = ecg.signal.shape[1] / ecg.sampling_rate
    if seconds - start < SHORTEST - 0.5 / ecg.sampling_rate:
        left = f"has {max(0.0, seconds - start):g} s left after {start:g} s" if start else f"is {seconds:g} s long"
        raise DataError(f"record {ecg.name} {left}, {SHORTEST:g} s or more are needed: give a longer recording")
