from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavq_core.data.database import Database
from lavq_core.errors import DataError
from lavq_core.signals.beats import BEFORE, Beats, concatenate, find_beats, frame_length
from lavq_core.signals.write_back import write_back

WAVES = ((0.1, -0.16, 0.025), (-0.1, -0.04, 0.015), (1.0, 0.0, 0.015), (-0.25, 0.04, 0.016), (0.3, 0.24, 0.05))
GAINS = np.array([1.0, 1.2, -0.6, -0.9, 0.5, 1.5, 1.2, 0.8])[:, None]


def beat(seconds: np.ndarray) -> np.ndarray:
    """One beat at seconds from its R peak, (8, ...): P, Q, R, S and T, with next to nothing above 50 Hz."""
    wave = sum(height * np.exp(-0.5 * ((seconds - centre) / width) ** 2) for height, centre, width in WAVES)
    s_wave = np.exp(-0.5 * ((seconds - 0.04) / 0.016) ** 2)
    return GAINS * wave + 0.2 * np.cos(np.arange(8))[:, None] * s_wave  # leads differ in more than size


def ecg(places: np.ndarray, rate: int = 100, sizes: np.ndarray | None = None, noise: float = 0.0) -> np.ndarray:
    """(8, 10 s) with beats at ``places`` (seconds)."""
    time = np.arange(10 * rate) / rate
    sizes = np.ones(len(places)) if sizes is None else sizes
    signal = sum(size * beat(time - place) for place, size in zip(places, sizes, strict=True))
    return (signal + noise * np.random.default_rng(0).normal(size=(8, len(time)))).astype(np.float32)


def rhythm(rr: float, start: float = 0.437, jitter: float = 0.03, seed: int = 0) -> np.ndarray:
    """Places of beats (seconds), off the sampling grid, whole beats only."""
    steps = rr + jitter * np.random.default_rng(seed).uniform(-1, 1, 40)
    places = start + np.cumsum(np.r_[0.0, steps])
    return places[places < 9.3]


def bump(rate: int, height: float = 0.2) -> np.ndarray:
    """An edit (1, 8, W): ST-T lifted, differently by lead."""
    seconds = np.arange(frame_length(rate)) / rate - BEFORE
    return (height * GAINS * np.exp(-0.5 * ((seconds - 0.2) / 0.05) ** 2))[None].astype(np.float32)


def ones(rate: int, n: int = 1) -> np.ndarray:
    return np.ones((n, frame_length(rate)), np.float32)


@settings(max_examples=20, deadline=None)
@given(rr=st.floats(0.6, 1.1), rate=st.sampled_from([100, 250, 500]), seed=st.integers(0, 99))
def test_beats_are_aligned_to_a_fraction_of_a_sample(rr: float, rate: int, seed: int) -> None:
    places = rhythm(rr, seed=seed)
    beats = find_beats(ecg(places, rate)[None], rate)
    found = beats.position[0][np.isfinite(beats.position[0])] / rate
    assert len(found) == len(places)
    error = found - places
    assert np.abs(error - np.median(error)).max() < 0.0005  # s, 1 / 20 of a sample at 100 Hz


@pytest.mark.parametrize("rate", [100, 500])
def test_the_median_is_the_beat(rate: int) -> None:
    places = rhythm(1.0)
    beats = find_beats(ecg(places, rate, noise=0.005)[None], rate)
    offset = np.median(beats.position[0] / rate - places)
    truth = beat(np.arange(frame_length(rate)) / rate - BEFORE + offset)
    assert beats.median.shape == (1, 8, frame_length(rate))
    assert beats.median.dtype == np.float32
    assert beats.valid.all()
    assert np.abs(beats.median[0] - truth).max() < 0.03  # mV, of an R wave of 1.5


@pytest.mark.parametrize("rate", [100, 500])
def test_the_heart_rate_is_the_median_rr(rate: int) -> None:
    places = rhythm(0.8)
    beats = find_beats(ecg(places, rate)[None], rate)
    assert beats.rr[0] == pytest.approx(np.median(np.diff(places)), abs=0.01)


@settings(max_examples=20, deadline=None)
@given(rr=st.floats(0.35, 1.5), rate=st.sampled_from([100, 500]))
def test_every_sample_belongs_to_at_most_one_beat(rr: float, rate: int) -> None:
    beats = find_beats(ecg(rhythm(rr), rate)[None], rate)
    there = np.isfinite(beats.position[0])
    start, stop, position = beats.start[0, there], beats.stop[0, there], beats.position[0, there]
    assert (start[1:] >= stop[:-1]).all()
    assert start[0] >= 0
    assert stop[-1] <= 10 * rate
    assert ((start <= position) & (position < stop)).all()


def test_a_frame_longer_than_the_rr_interval_is_valid_up_to_the_next_beat() -> None:
    beats = find_beats(ecg(rhythm(0.5, jitter=0.0))[None], 100)
    valid = np.flatnonzero(beats.valid[0])
    assert len(valid) == pytest.approx(50, abs=1)
    assert (np.diff(valid) == 1).all()
    assert valid[0] <= 32 <= valid[-1]


def test_a_beat_of_another_shape_is_told_and_does_not_enter_the_median() -> None:
    places = rhythm(0.9)
    ectopic, usual = ecg(places), find_beats(ecg(places)[None], 100)
    place, time = places[4], np.arange(1000) / 100
    ectopic -= beat(time - place).astype(np.float32)
    ectopic -= (1.5 * np.abs(GAINS) * np.exp(-0.5 * ((time - place) / 0.06) ** 2)).astype(np.float32)
    beats = find_beats(ectopic[None], 100)
    assert np.flatnonzero(~beats.dominant[0]).tolist() == [4]
    assert np.abs(beats.median - usual.median).max() < 0.1  # mV: of one in 10 beats that differs by 4 mV
    edited, envelope = write_back(beats, ectopic[None], bump(100), ones(100), 100)
    untouched = slice(int(beats.start[0, 4]), int(beats.stop[0, 4]))
    assert not envelope[0, untouched].any()
    np.testing.assert_array_equal(edited[0, :, untouched], ectopic[:, untouched])


@pytest.mark.parametrize("places", [[], [3.0], [3.0, 6.0]])
def test_a_record_with_hardly_a_beat_has_no_median_and_is_left_alone(places: list[float]) -> None:
    signal = np.stack([ecg(np.array(places)), ecg(rhythm(0.9))])
    beats = find_beats(signal, 100)
    assert beats.found().tolist() == [False, True]
    assert not beats.median[0].any()
    assert not beats.valid[0].any()
    assert np.isnan(beats.rr[0]) == (len(places) < 2)
    edited, envelope = write_back(beats, signal, np.ones_like(beats.median), ones(100, 2), 100)
    np.testing.assert_array_equal(edited[0], signal[0])
    assert not envelope[0].any()
    assert envelope[1].any()


def test_no_records_and_no_beats_at_all() -> None:
    none = find_beats(np.zeros((0, 8, 1000), np.float32), 100)
    assert len(none) == 0
    silent = np.zeros((2, 8, 1000), np.float32)
    beats = find_beats(silent, 100)
    edited, envelope = write_back(beats, silent, np.ones_like(beats.median), ones(100, 2), 100)
    assert not beats.found().any()
    assert not edited.any()
    assert not envelope.any()


def mixed() -> np.ndarray:
    """Records with few, many, and no beats."""
    return np.stack([ecg(rhythm(rr), noise=0.01) for rr in (1.3, 0.5, 0.8, 0.5)] + [ecg(np.array([]))])


def same(one: Beats, other: Beats, tolerance: float = 0.0) -> None:
    for name in Beats.__dataclass_fields__:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=0, atol=tolerance)


def test_a_batch_is_its_records() -> None:
    signals = mixed()
    alone = concatenate([find_beats(signal[None], 100) for signal in signals])
    same(find_beats(signals, 100), alone, 1e-4)


def test_records_are_selected_and_joined() -> None:
    beats = find_beats(mixed(), 100)
    same(concatenate([beats.take(np.array([0, 1])), beats.take(np.array([2, 3, 4]))]), beats)
    same(beats.take(np.array([3, 0])), concatenate([beats.take(np.array([3])), beats.take(np.array([0]))]))


def test_beats_are_kept_on_disk(tmp_path: Path) -> None:
    beats = find_beats(mixed(), 100)
    beats.save(tmp_path / "cache" / "beats.npz")
    kept = Beats.load(tmp_path / "cache" / "beats.npz")
    same(kept, beats)
    assert all(getattr(kept, name).dtype == getattr(beats, name).dtype for name in Beats.__dataclass_fields__)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["beats.npz"]


def test_a_missing_or_damaged_file_of_beats_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        Beats.load(tmp_path / "none.npz")
    whole = tmp_path / "whole.npz"
    find_beats(mixed(), 100).save(whole)
    for name, content in (("half", whole.read_bytes()[:5000]), ("text", b"beats"), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="damaged"):
            Beats.load(tmp_path / name)


@settings(max_examples=25, deadline=None)
@given(
    rr=st.floats(0.4, 1.4),
    rate=st.sampled_from([100, 500]),
    seed=st.integers(0, 999),
    gate=st.lists(st.sampled_from([0.0, 0.0, 0.4, 1.0]), min_size=24, max_size=24),
)
def test_outside_the_envelope_the_record_is_kept_bit_for_bit(
    rr: float, rate: int, seed: int, gate: list[float]
) -> None:
    signal = ecg(rhythm(rr, seed=seed), rate, noise=0.01)[None]
    signal[0, :, ::7] = -0.0
    beats = find_beats(signal, rate)
    change = np.random.default_rng(seed).normal(size=beats.median.shape).astype(np.float32)
    edited, envelope = write_back(beats, signal, change, np.repeat(gate, frame_length(rate) // 24)[None], rate)
    assert edited.dtype == envelope.dtype == np.float32
    assert (envelope >= 0).all()
    assert (envelope <= 1).all()
    outside = np.broadcast_to(envelope[:, None] == 0, signal.shape)
    np.testing.assert_array_equal(edited.view(np.int32)[outside], signal.view(np.int32)[outside])
    assert bool((envelope > 0).any()) <= any(gate)


@pytest.mark.parametrize("rate", [100, 500])
def test_what_is_written_back_is_found_again(rate: int) -> None:
    signal = ecg(rhythm(1.0), rate)[None]
    beats = find_beats(signal, rate)
    edited, _ = write_back(beats, signal, bump(rate), ones(rate), rate)
    again = find_beats(edited, rate)
    quiet = slice(round(0.1 * rate), -round(0.1 * rate))  # between the faded ends
    assert np.abs(again.median - beats.median - bump(rate))[..., quiet].max() < 0.01
    there = np.isfinite(beats.position)
    assert np.abs(again.position - beats.position)[there].max() / rate < 0.001  # s: the heart rate is the patient's
    assert again.rr == beats.rr


def test_nothing_written_is_the_record() -> None:
    signal = mixed()
    beats = find_beats(signal, 100)
    np.testing.assert_array_equal(write_back(beats, signal, 0 * beats.median, ones(100, 5), 100)[0], signal)


def test_each_beat_takes_the_edit_in_its_own_size() -> None:
    places = rhythm(1.0)
    sizes = np.ones(len(places))
    sizes[3], sizes[5] = 1.2, 0.85
    signal = ecg(places, sizes=sizes)[None]
    beats = find_beats(signal, 100)
    added = write_back(beats, signal, bump(100), ones(100), 100)[0] - signal
    peaks = [np.abs(added[0, 5, int(beats.start[0, i]) : int(beats.stop[0, i])]).max() for i in range(len(places))]
    np.testing.assert_allclose(peaks / np.median(peaks), sizes, atol=0.03)


def test_an_edit_fades_where_beats_meet_but_not_where_the_record_ends() -> None:
    places = rhythm(0.6, start=0.2, jitter=0.0)
    places = np.append(places, places[-1] + 0.6)  # its T wave is cut off
    signal = ecg(places)[None]
    beats = find_beats(signal, 100)
    _, envelope = write_back(beats, signal, bump(100), ones(100), 100)
    seams = beats.start[0, 1 : len(places)].astype(int)
    assert not envelope[0, seams].any()
    assert not envelope[0, seams - 1].any()
    assert np.abs(np.diff(envelope[0])).max() <= 0.1 + 1e-6  # 10 samples from nothing to all
    assert envelope[0, 0] == envelope[0, -1] == 1


def test_both_sampling_rates_are_written_alike() -> None:
    places, added = rhythm(0.95), {}
    for rate in (100, 500):
        signal = ecg(places, rate)[None]
        edited, envelope = write_back(find_beats(signal, rate), signal, bump(rate), ones(rate), rate)
        assert envelope.max() == 1
        added[rate] = edited - signal
    assert np.abs(added[100] - added[500][..., ::5]).max() < 0.02  # mV, of 0.3: R peaks lie a fraction of 10 ms apart


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    signal = mixed()
    beats = find_beats(signal, 100)
    for change, envelope in ((beats.median[:2], ones(100, 5)), (beats.median, ones(500, 5))):
        with pytest.raises(ValueError, match="expected n"):
            write_back(beats, signal, change, envelope, 100)


def test_real_records_have_beats(sample_database: Database) -> None:
    signals = sample_database.signals(np.arange(len(sample_database))).numpy()
    beats = find_beats(signals, 100)
    assert beats.found().mean() > 0.95
    edited, envelope = write_back(beats, signals, 0.2 * beats.median, np.ones(beats.valid.shape), 100)
    assert np.isfinite(edited).all()
    again = find_beats(edited, 100)
    both = beats.found() & again.found()
    assert both.sum() >= 0.98 * beats.found().sum()
    assert np.nanmedian(np.abs(again.rr - beats.rr)[both]) < 0.005
    np.testing.assert_array_equal((edited == signals)[np.broadcast_to(envelope[:, None] == 0, signals.shape)], True)
