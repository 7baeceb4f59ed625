"""Sizes of bands of frequencies."""

from __future__ import annotations

import numpy as np
import pytest

from lavq_core.signals.bands import band_size


@pytest.mark.parametrize(("samples", "rate"), [(1000, 100), (5000, 500), (999, 100)])
def test_bands_share_out_a_signal_by_frequency(samples: int, rate: int) -> None:
    time = np.arange(samples) / rate
    slow, fast = 0.3 * np.sin(2 * np.pi * 0.2 * time), 0.1 * np.sin(2 * np.pi * 40 * time)
    signal = np.broadcast_to(5.0 + slow + fast, (2, 8, samples))
    assert band_size(signal, rate, 0.0, 0.5) == pytest.approx(np.full((2, 8), 0.3 / np.sqrt(2)), rel=0.02)
    assert band_size(signal, rate, 35.0, rate / 2) == pytest.approx(np.full((2, 8), 0.1 / np.sqrt(2)), rel=0.02)


@pytest.mark.parametrize("samples", [100, 101])
def test_all_frequencies_together_are_the_spread(samples: int) -> None:
    x = np.random.default_rng(0).normal(size=(3, 8, samples))
    assert band_size(x, 100, 0.0, 50.0) == pytest.approx(x.std(axis=-1))
