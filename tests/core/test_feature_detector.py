"""A detector on a fixed description: the same interface as any, nothing fitted to data, found once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lavq_core.data import description_cache
from lavq_core.data.database import Database
from lavq_core.models.detector import build_detector
from lavq_core.models.feature_detector import FeatureDetector
from lavq_core.models.resnet import ResNet
from lavq_core.settings import DetectorConfig
from lavq_core.signals.description import RATE, SIZE, describe, wavelet_sizes
from lavq_core.training.detector_training import predict

BEAT, MEASURES = slice(0, 768), slice(768, 941)


@pytest.fixture(scope="module")
def ecgs(sample_database: Database) -> np.ndarray:
    return sample_database.signals(np.arange(12)).numpy()


@pytest.fixture(scope="module")
def described(ecgs: np.ndarray) -> np.ndarray:
    return describe(ecgs, 100)


def test_every_part_is_bounded_and_finite(described: np.ndarray) -> None:
    assert described.shape == (12, SIZE)
    for part in (BEAT, MEASURES, slice(941, SIZE)):
        lengths = np.linalg.norm(described[:, part], axis=1)
        assert np.isfinite(lengths).all()
        assert (lengths <= 1).all()


def test_a_description_is_of_one_ecg_alone(ecgs: np.ndarray, described: np.ndarray) -> None:
    """What else is in the batch changes nothing: a description may depend on its own patient only."""
    for row in (0, 5, 11):
        np.testing.assert_allclose(describe(ecgs[row : row + 1], 100)[0], described[row], atol=2e-6)


def test_at_500_hz_it_is_nearly_the_same(ecgs: np.ndarray, described: np.ndarray) -> None:
    from scipy.signal import resample_poly

    fine = describe(resample_poly(ecgs, 5, 1, axis=-1), 500)
    assert np.median(np.abs(fine - described).max(axis=1)) < 0.05
    similar = [np.corrcoef(a, b)[0, 1] for a, b in zip(fine, described, strict=True)]
    assert np.median(similar) > 0.97


def test_the_wavelet_of_a_sines_frequency_answers_most() -> None:
    time = np.arange(1000) / RATE
    for number, frequency in ((3, 4.0), (5, 9.0), (7, 18.0)):
        x = np.zeros((1, 8, 1000), np.float32)
        x[0, 2] = 0.5 * np.sin(2 * np.pi * frequency * time)
        sizes = wavelet_sizes(x)[0, :, :, 0]
        assert int(sizes[2].argmax()) == number
        mean = 0.03 * np.exp(1.5 * sizes[2, number])
        assert mean == pytest.approx(0.25, rel=0.1)  # half of the amplitude: its analytic half


def test_a_record_without_beats_has_no_beat_and_no_measures() -> None:
    noise = np.random.default_rng(0).normal(0, 0.02, (1, 8, 1000)).astype(np.float32)
    flat = describe(np.concatenate([noise, np.zeros((1, 8, 1000), np.float32)]), 100)
    assert np.isfinite(flat).all()
    assert not flat[1, BEAT].any()


@pytest.mark.parametrize(("rate", "samples"), [(250, 1000), (100, 199), (500, 999)])
def test_other_rates_and_stretches_too_short_are_refused(rate: int, samples: int) -> None:
    with pytest.raises(ValueError, match="describe takes"):
        describe(np.zeros((1, 8, samples), np.float32), rate)


def test_both_kinds_are_detectors_and_start_from_the_seed_alone(ecgs: np.ndarray) -> None:
    for kind, form in (("resnet", ResNet), ("features", FeatureDetector)):
        model = build_detector(DetectorConfig(kind=kind, width=8, blocks=1), 100, 3)
        assert isinstance(model, form)
        assert predict(model, torch.from_numpy(ecgs)).shape == (12, 5)
        assert model.last_layers()
    assert not build_detector(DetectorConfig(kind="features"), 100, 0).head.weight.any()


def test_a_short_stretch_is_still_scored() -> None:
    model = FeatureDetector(100)
    torch.nn.init.normal_(model.head.weight)
    assert torch.isfinite(model(torch.randn(2, 8, 130))).all()


def test_kept_descriptions_are_those_of_the_signals(sample_database: Database, described: np.ndarray) -> None:
    np.testing.assert_allclose(sample_database.descriptions[:12], described, atol=2e-6)
    model = FeatureDetector(100)
    torch.nn.init.normal_(model.head.weight)
    kept = model.scores(torch.from_numpy(np.array(sample_database.descriptions[:12])))
    torch.testing.assert_close(kept, predict(model, sample_database.signals(np.arange(12))), atol=1e-5, rtol=1e-4)


def test_they_are_computed_once(sample_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = np.asarray(sample_database.packed[:6])
    beats = sample_database.beats.take(np.arange(6))
    first = description_cache.open_descriptions(tmp_path / "pack", packed, 100, beats)
    monkeypatch.setattr(description_cache, "describe", lambda *_: pytest.fail("described again"))
    np.testing.assert_array_equal(description_cache.open_descriptions(tmp_path / "pack", packed, 100, beats), first)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == ["pack.described-1.npy"]
