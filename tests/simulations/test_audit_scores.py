"""What an attack scores a patient by: margins, likelihood ratios and RMIA, by hand and on planted leaks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from simulations.audit.attacks.lira import Worlds, fit_worlds, label_margin, log_likelihood_ratio, negative_loss
from simulations.audit.attacks.rmia import rmia
from simulations.audit.attacks.scores import attack, calibrated
from simulations.audit.cohort import Cohort
from simulations.audit.measure import operating_point
from simulations.audit.shadows.training import Shadows, fair_halves


def cohort_of(owner: list[int], y: np.ndarray) -> Cohort:
    patients = max(owner) + 1
    empty = np.zeros((len(owner), 8, 10), dtype=np.int16)
    rows = np.arange(len(owner))
    return Cohort(empty, y, np.array(owner), np.arange(patients), np.zeros(patients, dtype=bool), rows)


# The statistic


def test_the_statistic_is_the_logit_of_the_true_label_averaged_over_classes() -> None:
    probability = np.array([[0.9, 0.2, 0.5, 0.7, 0.1]])
    y = np.array([[1.0, 0.0, 1.0, 0.0, 1.0]])
    true = np.array([0.9, 0.8, 0.5, 0.3, 0.1])
    logits = np.log(probability / (1.0 - probability))
    assert label_margin(logits, y)[0] == pytest.approx(np.mean(np.log(true) - np.log(1.0 - true)))
    assert negative_loss(logits, y)[0] == pytest.approx(np.mean(np.log(true)))


def test_the_statistic_does_not_saturate() -> None:
    """Probabilities of these logits are all exactly 1 in float32."""
    confident = np.array([[40.0], [50.0]], dtype=np.float32)
    assert label_margin(confident, np.ones((2, 1))).tolist() == [40.0, 50.0]
    assert negative_loss(-confident, np.ones((2, 1))).tolist() == [-40.0, -50.0]


def test_a_patient_counts_by_the_mean_over_the_records() -> None:
    cohort = cohort_of([0, 2, 0, 1, 0], np.zeros((5, 5)))
    values = np.array([[1.0, 5.0, 2.0, 7.0, 6.0], [0.0, 1.0, 0.0, 2.0, 3.0]])
    np.testing.assert_allclose(cohort.patient_means(values), [[3.0, 7.0, 5.0], [1.0, 2.0, 1.0]])
    np.testing.assert_allclose(cohort.patient_means(values[0]), [3.0, 7.0, 5.0])


# The likelihood ratio


def test_the_likelihood_ratio_is_that_of_two_normal_distributions() -> None:
    worlds = Worlds(np.array([2.0, 1.0]), np.array([0.0, -1.0]), variance=4.0)
    target = np.array([2.0, -3.0])
    by_hand = [(2.0**2 - 0.0) / 8.0, ((-2.0) ** 2 - (-4.0) ** 2) / 8.0]
    densities = norm.logpdf(target, worlds.mean_in, 2.0) - norm.logpdf(target, worlds.mean_out, 2.0)
    np.testing.assert_allclose(log_likelihood_ratio(target, worlds), by_hand)
    np.testing.assert_allclose(log_likelihood_ratio(target, worlds), densities)


def test_means_and_variance_by_hand() -> None:
    """Gaps of 4 and 0 about a mean of 2, seen with variance 2 (1/2 + 1/2): half of their spread of 4 is believed."""
    included = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], dtype=bool)
    shadows = np.array([[5.0, 2.0], [3.0, 4.0], [1.0, 4.0], [-1.0, 2.0]])
    worlds = fit_worlds(shadows, included)
    assert worlds.variance == pytest.approx((4 * 1.0 + 4 * 1.0) / 4)  # 8 residuals of 1, 2 degrees a patient
    np.testing.assert_allclose(worlds.mean_in - worlds.mean_out, [2.0 + 2.0 * 0.5, 2.0 - 2.0 * 0.5])
    np.testing.assert_allclose((worlds.mean_in + worlds.mean_out) / 2.0, [2.0, 3.0])


def test_many_shadows_leave_the_patients_own_means_alone() -> None:
    generator = np.random.default_rng(0)
    included = fair_halves(50, 4000, seed=0)
    shadows = np.where(included, generator.normal(0.0, 2.0, 50), -3.0) + generator.normal(size=included.shape)
    worlds = fit_worlds(shadows, included)
    own = np.where(included, shadows, 0.0).sum(0) / 2000
    np.testing.assert_allclose(worlds.mean_in, own, atol=0.005)
    assert worlds.variance == pytest.approx(1.0, abs=0.01)


def test_a_patient_in_every_shadow_is_refused() -> None:
    included = np.array([[1, 1], [1, 0], [1, 1], [1, 0]], dtype=bool)
    with pytest.raises(ValueError, match="balance"):
        fit_worlds(np.random.default_rng(0).normal(size=(4, 2)), included)


def test_lira_reads_the_exact_rate_of_a_planted_leak_that_the_loss_cannot_see() -> None:
    """Patients differ by 5 in difficulty, training moves each by 2 at noise 1: P(Z > z_.99 - 2) are found at 1 %."""
    generator = np.random.default_rng(4)
    patients, moved = 40_000, 2.0
    difficulty = generator.normal(0.0, 5.0, patients)
    included = fair_halves(patients, 64, seed=1)
    shadows = difficulty + moved * included + generator.normal(size=included.shape)
    member = generator.random(patients) < 0.5
    target = difficulty + moved * member + generator.normal(size=patients)
    found = operating_point(log_likelihood_ratio(target, fit_worlds(shadows, included)), member)
    # The middle of a patient's means, of 64 shadows, is uncertain by 1 / 8 standard deviation.
    exact = norm.sf(norm.isf(0.01) - moved / np.sqrt(1.0 + 1.0 / 64.0))
    assert found.true_positives.value == pytest.approx(exact, abs=0.03)
    assert operating_point(target, member).true_positives.value < 0.05


# RMIA


def test_rmia_is_the_share_of_others_whose_likelihood_ratio_is_gamma_times_smaller() -> None:
    generator = np.random.default_rng(0)
    target, shadows = -generator.exponential(size=30), -generator.exponential(size=(6, 30))
    ratio = np.exp(target) / np.exp(shadows).mean(axis=0)  # p(x | model) / p(x)
    for gamma in (1.0, 2.0):
        by_hand = [np.mean([ratio[x] / ratio[z] >= gamma for z in range(30) if z != x]) for x in range(30)]
        np.testing.assert_allclose(rmia(target, shadows, gamma), by_hand)


def test_rmia_finds_who_was_trained_on_among_people_of_any_difficulty() -> None:
    generator = np.random.default_rng(1)
    difficulty, included = generator.normal(0.0, 5.0, 3_000), fair_halves(3_000, 8, seed=0)
    member = generator.random(3_000) < 0.5
    scores = rmia(difficulty + 1.5 * member, difficulty + 1.5 * included)
    assert operating_point(scores, member).true_positives.value > 0.9
    assert operating_point(difficulty + 1.5 * member, member).true_positives.value < 0.1


# All attacks on one model


def test_every_answer_of_model_and_shadows_becomes_an_attack() -> None:
    generator = np.random.default_rng(2)
    cohort = cohort_of([0, 1, 2, 3, 3], np.ones((5, 2)))
    answers = {"logits": generator.normal(size=(8, 5, 2)), "updates/site": generator.normal(size=(8, 4))}
    answers["twins/density"] = np.where([True, False, True, True], generator.normal(size=(8, 4)), np.nan)
    shadows = Shadows(fair_halves(4, 8, seed=0), answers, 8)
    target = {
        "logits": generator.normal(size=(5, 2)),
        "twins/density": generator.normal(size=4),
        "codebook/commitment": np.ones(4),
    }
    found = {f"{one.surface}/{one.attack}": one for one in attack(target, shadows, cohort)}
    assert set(found) == {"detector/lira", "detector/rmia", "detector/loss", "twins/density", "codebook/commitment"}
    assert not found["codebook/commitment"].calibrated  # the shadows say nothing of it
    assert not found["codebook/commitment"].votes
    assert np.isfinite(found["twins/density"].values).tolist() == [True, False, True, True]
    assert not found["detector/loss"].calibrated
    by_hand = calibrated(target["twins/density"][:1], answers["twins/density"][:, :1], shadows.included[:, :1])
    assert np.isfinite(by_hand).all()


def test_a_statistic_that_never_changes_scores_nobody() -> None:
    assert np.isnan(calibrated(np.ones(3), np.ones((6, 3)), fair_halves(3, 6, seed=0))).all()
