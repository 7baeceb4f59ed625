"""A strip shows one beat again and again, as the detector would see it in a record."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lavq_core.models.detector import build_detector
from lavq_core.models.strip import strip, strip_places
from lavq_core.settings import Config
from lavq_core.signals.beats import BEFORE, find_beats, frame_length

RATES = st.sampled_from([100, 500])


def whole(rate: int, count: int = 1) -> Tensor:
    """Frames that belong to their beat from end to end."""
    return torch.ones(count, frame_length(rate), dtype=torch.bool)


@settings(max_examples=40, deadline=None)
@given(rr=st.floats(0.1, 4.0), rate=RATES, first=st.integers(0, 30), length=st.integers(1, 96))
def test_a_strip_of_2_5_s_shows_samples_of_the_frame(rr: float, rate: int, first: int, length: int) -> None:
    valid = torch.zeros(1, frame_length(rate), dtype=torch.bool)
    valid[0, first : first + length] = True
    places = strip_places(torch.tensor([rr]), valid, rate)
    assert places.shape == (1, round(2.5 * rate))
    assert places.dtype == torch.int64
    assert int(places.min()) >= 0
    assert int(places.max()) <= min(first + length, frame_length(rate)) - 1  # nothing of the next beat


@settings(max_examples=40, deadline=None)
@given(rr=st.floats(0.3, 2.0), rate=RATES)
def test_the_r_peak_recurs_at_the_rr_interval(rr: float, rate: int) -> None:
    places = strip_places(torch.tensor([rr]), whole(rate), rate)[0]
    peaks = (places == round(BEFORE * rate)).nonzero().flatten()
    assert set(peaks.diff().tolist()) <= {round(float(np.float32(rr)) * rate)}
    assert 0 < int(peaks[0]) <= BEFORE * rate
    assert len(peaks) >= 2


def test_a_slow_heart_by_hand() -> None:
    """RR 1.2 s at 100 Hz: the whole frame, its last sample held for 24 samples, and again."""
    places = strip_places(torch.tensor([1.2]), whole(100), 100)[0]
    beat = [*range(96), *[95] * 24]
    assert places.tolist() == [*beat, *beat, *range(10)]


def test_a_fast_heart_by_hand() -> None:
    """RR .5 s at 100 Hz: 40 % of it before the R peak, samples 12 to 61 of the frame, and no gap."""
    places = strip_places(torch.tensor([0.5]), whole(100), 100)[0]
    assert places.tolist() == list(range(12, 62)) * 5


def test_the_last_sample_that_belongs_to_the_beat_is_held() -> None:
    valid = whole(100)
    valid[0, 70:] = False
    places = strip_places(torch.tensor([1.0]), valid, 100)[0]
    assert places[:100].tolist() == [*range(70), *[69] * 30]


@pytest.mark.parametrize(("rr", "as_if"), [(0.05, 0.3), (9.0, 2.0)])
def test_impossible_intervals_are_read_as_the_next_possible_one(rr: float, as_if: float) -> None:
    found, expected = (strip_places(torch.tensor([value]), whole(100), 100) for value in (rr, as_if))
    assert torch.equal(found, expected)


def test_every_record_has_its_own_rhythm() -> None:
    rr, valid = torch.tensor([0.5, 0.8, 1.3]), whole(100, 3)
    valid[1, 80:] = False
    together = strip_places(rr, valid, 100)
    for i in range(3):
        assert torch.equal(together[i : i + 1], strip_places(rr[i : i + 1], valid[i : i + 1], 100))


def test_a_strip_repeats_the_beats_samples() -> None:
    beats = torch.randn(2, 8, 96, generator=torch.Generator().manual_seed(0))
    places = strip_places(torch.tensor([0.6, 1.1]), whole(100, 2), 100)
    shown = strip(beats, places)
    assert shown.shape == (2, 8, 250)
    for i in range(2):
        for lead in range(8):
            assert torch.equal(shown[i, lead], beats[i, lead, places[i]])


def test_gradient_passes_to_every_sample_as_often_as_it_is_shown() -> None:
    beats = torch.zeros(1, 8, 96, requires_grad=True)
    places = strip_places(torch.tensor([0.7]), whole(100), 100)
    weights = torch.randn(1, 8, 250, generator=torch.Generator().manual_seed(0))
    (strip(beats, places) * weights).sum().backward()
    expected = torch.zeros(8, 96)
    for time, place in enumerate(places[0].tolist()):
        expected[:, place] += weights[0, :, time]
    assert beats.grad is not None
    torch.testing.assert_close(beats.grad[0], expected)


def test_the_detector_reads_a_strip_and_judges_the_beat_by_it(tiny: Config) -> None:
    beats = torch.randn(2, 8, 96, generator=torch.Generator().manual_seed(0), requires_grad=True)
    judge = build_detector(tiny.detector, 100, 0).eval()
    scores = judge(strip(beats, strip_places(torch.tensor([0.8, 1.0]), whole(100, 2), 100)))
    assert scores.shape == (2, 5)
    scores[:, 1].sum().backward()
    assert beats.grad is not None
    assert bool((beats.grad.abs().amax(dim=(1, 2)) > 0).all())


@pytest.mark.parametrize("rate", [100, 500])
def test_a_strip_of_a_records_beat_looks_like_the_record(rate: int) -> None:
    time = np.arange(10 * rate) / rate
    since = (time - 0.4) % 0.9
    since = np.where(since > 0.5, since - 0.9, since)  # s from the nearest R peak
    wave = np.exp(-0.5 * (since / 0.02) ** 2) + 0.3 * np.exp(-0.5 * ((since - 0.25) / 0.05) ** 2)
    signal = (np.linspace(0.5, 1.5, 8)[:, None] * wave).astype(np.float32)
    beats = find_beats(signal[None], rate)
    places = strip_places(torch.from_numpy(beats.rr), torch.from_numpy(beats.valid), rate)
    shown = strip(torch.from_numpy(beats.median), places)[0].numpy()
    begin = int(np.argmax(signal[0, rate:])) + rate - int(np.argmax(shown[0]))
    assert np.abs(shown - signal[:, begin : begin + shown.shape[1]]).max() < 0.1  # mV, of an R wave of 1.5
