"""How large a signal is in a band of frequencies."""

from __future__ import annotations

import numpy as np

DRIFT = 0.5  # Hz, below which is drift of the baseline and little of a heart


def band_size(signals: np.ndarray, sampling_rate: int, low: float, high: float) -> np.ndarray:
    """Root mean square (mV) of leads ``(n, 8, T)`` from ``low`` up to ``high`` Hz, without their mean: ``(n, 8)``."""
    samples = signals.shape[-1]
    spectrum = np.fft.rfft(signals - signals.mean(axis=-1, keepdims=True))
    frequency = np.fft.rfftfreq(samples, 1.0 / sampling_rate)
    both_ways = np.where(2 * np.arange(len(frequency)) == samples, 1.0, 2.0)  # only half the Nyquist rate has no twin
    kept = both_ways * ((frequency >= low) & (frequency <= high))  # (f,)
    return np.sqrt(np.square(np.abs(spectrum)) @ kept) / samples
