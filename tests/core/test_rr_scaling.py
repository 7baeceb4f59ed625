from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavq_core.data.database import Database
from lavq_core.errors import ConfigError, DataError
from lavq_core.signals.leads import einthoven_residual, to_twelve
from lavq_core.signals.rpeaks import find_r_peaks
from lavq_core.signals.rr_scaling import rr_limits, scale_rr

WAVES = ((0.1, -0.16, 0.02), (-0.1, -0.03, 0.01), (1.0, 0.0, 0.012), (-0.25, 0.04, 0.012), (0.3, 0.26, 0.04))
GAINS = np.array([1.0, 1.2, -0.6, -0.9, 0.5, 1.5, 1.2, 0.8])[:, None]


def ecg(rr: float, rate: int = 100, jitter: float = 0.0, noise: float = 0.0) -> np.ndarray:
    """(8, 10 s), beats ``rr`` seconds apart on a wandering baseline."""
    time, rng = np.arange(10 * rate) / rate, np.random.default_rng(0)
    places = 0.4 + np.cumsum(np.r_[0.0, rr + jitter * rng.uniform(-1, 1, 30)])
    wave = sum(h * np.exp(-0.5 * ((time - p - c) / w) ** 2) for p in places for h, c, w in WAVES)
    wander = 0.1 * np.sin(2 * np.pi * 0.2 * time)
    return (GAINS * wave + wander + noise * rng.normal(size=(8, len(time)))).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(factor=st.floats(0.88, 1.4), rr=st.floats(1.0, 1.3), rate=st.sampled_from([100, 500]))
def test_rr_intervals_are_scaled(factor: float, rr: float, rate: int) -> None:
    signal = ecg(rr, rate, jitter=0.03)
    scaled = scale_rr(signal, rate, factor)
    before, after = np.diff(find_r_peaks(signal, rate)), np.diff(find_r_peaks(scaled, rate))
    assert scaled.shape == signal.shape
    assert scaled.dtype == np.float32
    same = min(len(before), len(after)) - 1  # an early end may be followed by the first beats again
    assert np.abs(after[:same] - factor * before[:same]).max() <= 1  # sample
    assert np.median(after) == pytest.approx(factor * np.median(before), rel=0.05)


@settings(max_examples=30, deadline=None)
@given(factor=st.floats(0.88, 1.4), rate=st.sampled_from([100, 500]))
def test_p_qrs_and_t_keep_every_sample(factor: float, rate: int) -> None:
    signal = ecg(1.1, rate, jitter=0.03, noise=0.01)
    scaled = scale_rr(signal, rate, factor)
    before, after = round(0.25 * rate), round(0.42 * rate)
    old, new = find_r_peaks(signal, rate), find_r_peaks(scaled, rate)
    whole = [(a, b) for a, b in zip(old, new, strict=False) if a >= before and max(a, b) + after <= 10 * rate]
    assert len(whole) >= 5
    for a, b in whole[: len(old) - 2]:
        np.testing.assert_array_equal(scaled[:, b - before : b + after], signal[:, a - before : a + after])


@pytest.mark.parametrize("factor", [0.85, 0.95, 1.1, 1.5])
@pytest.mark.parametrize("rate", [100, 500])
def test_there_is_no_jump_at_a_join(factor: float, rate: int) -> None:
    signal = ecg(1.1, rate)
    steepest = np.abs(np.diff(signal)).max(axis=1)
    scaled = scale_rr(signal, rate, factor)
    assert (np.abs(np.diff(scaled)).max(axis=1) <= 1.001 * steepest).all()
    calm = np.ones(10 * rate - 1, bool)  # away from QRS: joins lie between T and P
    for peak in find_r_peaks(scaled, rate):
        calm[max(0, peak - round(0.12 * rate)) : peak + round(0.15 * rate)] = False
    assert np.abs(np.diff(scaled))[:, calm].max() < 0.1 * 100 / rate  # mV a sample; QRS: 0.7 at 100 Hz


def test_a_shortened_record_goes_on_with_its_own_beats() -> None:
    signal = ecg(1.1)
    scaled = scale_rr(signal, 100, 0.85)
    peaks = find_r_peaks(scaled, 100)
    assert len(peaks) > len(find_r_peaks(signal, 100))
    assert np.abs(np.diff(peaks) - 0.85 * 110).max() <= 3
    last = peaks[peaks < 950][-1]
    difference = scaled[:, last - 20 : last + 40] - signal[:, find_r_peaks(signal, 100)[1] - 20 :][:, :60]
    assert np.ptp(difference, axis=-1).max() < 0.15  # mV: another level and wander, the same beat


def test_factor_one_is_the_record() -> None:
    signal = ecg(0.9, noise=0.02)
    np.testing.assert_array_equal(scale_rr(signal, 100, 1.0), signal)


@pytest.mark.parametrize("factor", [0.9, 1.2])
def test_einthoven_holds_as_before(factor: float) -> None:
    eight = ecg(1.1, noise=0.01)
    twelve = to_twelve(eight)
    scaled = scale_rr(twelve, 100, factor)
    np.testing.assert_allclose(scaled, to_twelve(scale_rr(eight, 100, factor)), atol=1e-5)
    assert einthoven_residual(scaled) < 1e-5


@pytest.mark.parametrize("factor", [0.3, 4.0, 0.0, -1.0, float("nan"), float("inf")])
def test_factors_beyond_the_tp_segments_are_refused_with_those_that_are_not(factor: float) -> None:
    signal = ecg(1.0)
    with pytest.raises(ConfigError, match=r"can be scaled by 0\.\d\d to 1\.\d\d, not by"):
        scale_rr(signal, 100, factor)
    low, high = rr_limits(signal, 100)
    assert 0.6 < low < 0.9
    assert 1.3 < high < 2.0
    for allowed in (low, high):
        assert scale_rr(signal, 100, allowed).shape == signal.shape


def test_a_fast_heart_has_no_tp_segment_to_give() -> None:
    with pytest.raises(DataError, match=r"leave nothing between the beats at 0\.\d and \d\.\d s"):
        scale_rr(ecg(0.5), 100, 1.1)


def test_a_record_without_beats_cannot_be_scaled() -> None:
    with pytest.raises(DataError, match="0 R peaks"):
        scale_rr(np.zeros((8, 1000), np.float32), 100, 1.1)


def test_real_records_are_scaled(sample_database: Database) -> None:
    done = 0
    for signal in sample_database.signals(np.arange(40)).numpy():
        try:
            low, high = rr_limits(signal, 100)
        except DataError:
            continue
        factor = min(1.1, high) if done % 2 else max(0.95, low)
        scaled = scale_rr(signal, 100, factor)
        ratio = np.median(np.diff(find_r_peaks(scaled, 100))) / np.median(np.diff(find_r_peaks(signal, 100)))
        assert np.isfinite(scaled).all()
        assert ratio == pytest.approx(factor, abs=0.03)
        done += 1
    assert done >= 20
