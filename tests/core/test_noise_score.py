"""A noise score that learns without labels: noisy leads score high, whoever they belong to, and it is repeatable."""

from __future__ import annotations

import numpy as np
import pytest

from lavq_core.data.database import Database
from lavq_core.metrics.auc import weighted_auc
from lavq_core.training.noise_score import NoiseScore


@pytest.fixture(scope="module")
def signals(sample_database: Database) -> np.ndarray:
    """Training records of the sample: (96, 8, 1000) mV."""
    return sample_database.signals(sample_database.in_folds(*range(1, 9))[:96]).numpy()


@pytest.fixture(scope="module")
def unseen(sample_database: Database) -> np.ndarray:
    return sample_database.signals(sample_database.in_folds(9, 10)[:48]).numpy()


@pytest.fixture(scope="module")
def score(signals: np.ndarray) -> NoiseScore:
    return NoiseScore.fit(signals, 100, seed=0, steps=400)


def spoilt(signals: np.ndarray, kind: str) -> np.ndarray:
    """One kind of noise in lead V2 (the fourth of eight)."""
    rng, time, out = np.random.default_rng(0), np.arange(signals.shape[-1]) / 100, signals.copy()
    added = {
        "static": 0.15 * rng.normal(size=(len(signals), len(time))),
        "drift": 1.5 * np.sin(2 * np.pi * 0.15 * time),
        "burst": np.where((time > 4) & (time < 5), 1.0, 0.0) * rng.normal(size=(len(signals), len(time))),
    }[kind]
    out[:, 3] += added
    return out.astype(np.float32)


@pytest.mark.parametrize("kind", ["static", "burst"])
def test_a_noisy_lead_scores_above_clean_ones_of_patients_it_never_saw(
    score: NoiseScore, unseen: np.ndarray, kind: str
) -> None:
    clean, noisy = score(unseen, 100), score(spoilt(unseen, kind), 100)
    assert clean.shape == (len(unseen), 8)
    said = np.r_[clean[:, 3], noisy[:, 3]]
    truth = np.r_[np.zeros(len(unseen)), np.ones(len(unseen))]
    assert weighted_auc(truth, said, np.ones((1, len(said))))[0] > 0.9
    others = [lead for lead in range(8) if lead != 3]
    assert np.allclose(clean[:, others], noisy[:, others], rtol=1e-4), "a lead is judged by itself"


def test_a_record_is_named_by_its_noisy_lead(score: NoiseScore, unseen: np.ndarray) -> None:
    assert np.mean(score(spoilt(unseen, "static"), 100).argmax(axis=1) == 3) > 0.6, "chance is an eighth"


def test_what_cannot_be_written_again_is_measured_in_the_last_features(score: NoiseScore, unseen: np.ndarray) -> None:
    clean, noisy = score.features(unseen, 100), score.features(spoilt(unseen, "burst"), 100)
    assert np.isfinite(clean).all()
    assert np.all(noisy[:, 3, -1] > clean[:, 3, -1]), "the loudest second"
    assert np.all(noisy[:, 3, -1] > noisy[:, 3, -2]), "a burst is louder than the mean"


def test_the_same_seed_gives_the_same_score_and_another_one_another(signals: np.ndarray) -> None:
    few = signals[:24]
    first, again, other = (NoiseScore.fit(few, 100, seed, steps=5)(few, 100) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


def test_500_hz_is_read_as_100_hz_and_single_outliers_stay_finite(score: NoiseScore, unseen: np.ndarray) -> None:
    fine = np.repeat(unseen[:8], 5, axis=-1)
    slow, fast = score(unseen[:8], 100), score(fine, 500)
    assert fast.shape == slow.shape
    assert np.corrcoef(slow.ravel(), fast.ravel())[0, 1] > 0.8
    railed = unseen[:2].copy()
    railed[:, 0, 100:200] = 32.0
    assert np.isfinite(score(railed, 100)).all()
