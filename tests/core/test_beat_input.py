"""What the networks see of a patient: the median beat, three covariates about 0, and which tokens are the beat's."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lavq_core.data.database import Database
from lavq_core.models.beat_input import BeatInput
from lavq_core.signals.beats import Beats, find_beats
from lavq_core.training.guided import GuidedBeats

W, STRIDE = 96, 4


def beats_of(rr: list[float], valid: np.ndarray | None = None) -> Beats:
    """Beats of which only the RR interval and the valid samples matter."""
    n = len(rr)
    blank = np.full((n, 1), np.nan, np.float32)
    median = np.random.default_rng(0).normal(size=(n, 8, W)).astype(np.float32)
    valid = np.ones((n, W), bool) if valid is None else valid
    return Beats(median, blank, blank, blank, np.zeros((n, 1), bool), np.array(rr, np.float32), valid)


def covariates(rr: float = 0.85, age: float = 60.0, sex: float = 0.5) -> list[float]:
    return BeatInput.of(beats_of([rr]), [age], [sex], STRIDE).covariates[0].tolist()


def test_the_typical_patient_is_0() -> None:
    assert covariates() == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"rr": 0.85 * math.exp(0.33)}, [1.0, 0.0, 0.0]),
        ({"rr": 0.85 * math.exp(-0.33)}, [-1.0, 0.0, 0.0]),  # twice as fast is as far as twice as slow
        ({"age": 80.0}, [0.0, 1.0, 0.0]),
        ({"age": 20.0}, [0.0, -2.0, 0.0]),
        ({"age": 300.0}, [0.0, 1.5, 0.0]),  # how PTB-XL writes over 89
        ({"age": 90.0}, [0.0, 1.5, 0.0]),
        ({"sex": 0.0}, [0.0, 0.0, -0.5]),
        ({"sex": 1.0}, [0.0, 0.0, 0.5]),
    ],
)
def test_covariates_by_hand(given: dict[str, float], expected: list[float]) -> None:
    assert covariates(**given) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("unknown", ["rr", "age", "sex"])
def test_what_is_unknown_is_0_and_says_nothing_about_the_rest(unknown: str) -> None:
    known = {"rr": 1.1, "age": 75.0, "sex": 1.0}
    column = list(known).index(unknown)
    expected = covariates(**known)
    expected[column] = 0.0
    assert covariates(**(known | {unknown: math.nan})) == expected


@settings(max_examples=30, deadline=None)
@given(first=st.integers(0, W - 1), length=st.integers(0, W), stride=st.sampled_from([4, 8, 12, 24]))
def test_a_token_is_valid_when_all_its_samples_are(first: int, length: int, stride: int) -> None:
    valid = np.zeros((1, W), bool)
    valid[0, first : first + length] = True
    found = BeatInput.of(beats_of([0.9], valid), [60.0], [0.0], stride).valid
    expected = [float(all(valid[0, n * stride : (n + 1) * stride])) for n in range(W // stride)]
    assert found.tolist() == [expected]
    assert found.dtype == torch.float32


def test_the_waveform_is_the_median_beat() -> None:
    beats = beats_of([0.9, 1.0])
    given = BeatInput.of(beats, [60.0, math.nan], [0.0, 1.0], STRIDE)
    np.testing.assert_array_equal(given.x.numpy(), beats.median)
    assert len(given) == 2
    assert given.covariates.dtype == torch.float32


def test_rows_are_taken_together_and_copied() -> None:
    given = BeatInput.of(beats_of([0.7, 0.9, 1.1]), [40.0, 60.0, 80.0], [0.0, 1.0, math.nan], STRIDE)
    taken = given.take(torch.tensor([2, 0, 2]))
    for item in fields(BeatInput):
        assert torch.equal(getattr(taken, item.name), getattr(given, item.name)[[2, 0, 2]])
    before = given.x.clone()
    taken.x.zero_()
    assert torch.equal(given.x, before)


def test_what_is_known_of_beats_is_taken_with_them() -> None:
    n = 3
    generator = torch.Generator().manual_seed(0)
    parts = {item.name: torch.rand(n, 2, generator=generator) for item in fields(GuidedBeats)}
    taken = GuidedBeats(**parts).take(torch.tensor([1]))
    assert isinstance(taken, GuidedBeats)
    assert {item.name for item in fields(taken)} >= {"x", "y", "memory", "asked", "statements", "places"}
    for name, value in parts.items():
        assert torch.equal(getattr(taken, name), value[1:2]), name


def test_a_record_without_a_beat_has_no_token() -> None:
    beats = find_beats(np.zeros((1, 8, 1000), np.float32), 100)
    given = BeatInput.of(beats, [60.0], [1.0], STRIDE)
    assert not given.valid.any()
    assert not given.x.any()
    assert given.covariates.tolist() == [[0.0, 0.0, 0.5]]


def test_covariates_of_real_patients_are_about_0(sample_database: Database) -> None:
    rows = sample_database.table
    age, sex = (rows[name].to_numpy(dtype=float, na_value=np.nan) for name in ("age", "sex"))
    given = BeatInput.of(sample_database.beats, age, sex, STRIDE)
    assert torch.isfinite(given.covariates).all()
    assert float(given.covariates.mean(0).abs().max()) < 0.5
    assert float(given.covariates.std(0).min()) > 0.3
    assert float(given.covariates.std(0).max()) < 1.5
    assert float(given.covariates.abs().max()) < 5.0
