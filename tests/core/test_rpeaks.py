from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavq_core.data.records import read_record
from lavq_core.signals.leads import to_twelve
from lavq_core.signals.rpeaks import find_r_peaks, find_r_peaks_batch


def synthetic(beats: np.ndarray, sampling_rate: int = 100, noise: float = 0.01, wander: float = 0.3) -> np.ndarray:
    """(8, T) with a QRS of 1 mV and a T wave of 0.3 mV at each of ``beats`` (seconds), its sign by lead."""
    time = np.arange(10 * sampling_rate) / sampling_rate
    wave = np.zeros_like(time)
    for beat in beats:
        wave += np.exp(-(((time - beat) / 0.015) ** 2)) + 0.3 * np.exp(-(((time - beat - 0.25) / 0.06) ** 2))
    gains = np.array([1.0, 1.2, -0.6, -0.9, 0.5, 1.5, 1.2, 0.8])[:, None]
    drift = wander * np.sin(2 * np.pi * 0.25 * time)
    return (gains * wave + drift + noise * np.random.default_rng(0).normal(size=(8, len(time)))).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(rate=st.floats(35, 180), start=st.floats(0.15, 0.3), sampling_rate=st.sampled_from([100, 500]))
def test_every_beat_is_found_where_it_is(rate: float, start: float, sampling_rate: int) -> None:
    beats = np.arange(start, 9.7, 60 / rate)
    peaks = find_r_peaks(synthetic(beats, sampling_rate), sampling_rate)
    assert peaks.dtype == np.int64
    assert len(peaks) == len(beats)
    assert np.abs(peaks / sampling_rate - beats).max() < 0.03


def test_eight_and_twelve_leads_give_the_same_peaks() -> None:
    eight = synthetic(np.arange(0.3, 9.8, 0.8))
    np.testing.assert_array_equal(find_r_peaks(eight, 100), find_r_peaks(to_twelve(eight), 100))


def test_a_batch_is_its_records() -> None:
    batch = np.stack([synthetic(np.arange(0.3, 9.8, step)) for step in (0.6, 0.8, 1.1)])
    for together, signal in zip(find_r_peaks_batch(batch, 100), batch, strict=True):
        np.testing.assert_array_equal(together, find_r_peaks(signal, 100))


def test_an_artefact_in_one_lead_hides_no_beat() -> None:
    beats = np.arange(0.3, 9.8, 0.8)
    signal = synthetic(beats)
    signal[5, 405:412] += 6.0
    peaks = find_r_peaks(signal, 100) / 100
    assert all(np.abs(peaks - beat).min() < 0.03 for beat in beats)


@pytest.mark.parametrize("signal", [np.zeros((8, 1000)), np.full((8, 1000), np.nan), np.zeros((12, 1000))])
def test_silence_has_no_beats(signal: np.ndarray) -> None:
    assert len(find_r_peaks(signal, 100)) == 0


def test_a_real_ecg_beats_regularly(sample: Path) -> None:
    header = sorted((sample / "records100").rglob("*.hea"))[0]
    peaks = find_r_peaks(read_record(header).signal, 100)
    spacing = np.diff(peaks) / 100
    assert 6 <= len(peaks) <= 20
    assert spacing.std() / spacing.mean() < 0.2


@pytest.mark.parametrize("kind", ["white", "walk", "sine"])
def test_noise_and_wander_have_no_beats(kind: str) -> None:
    white = np.random.default_rng(0).normal(size=(8, 1000))
    signal = {
        "white": white,
        "walk": white.cumsum(axis=1),
        "sine": np.sin(2 * np.pi * 1.2 * np.arange(1000) / 100) * np.ones((8, 1)),
    }[kind]
    assert len(find_r_peaks(signal.astype(np.float32), 100)) == 0
