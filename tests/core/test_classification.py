"""Average precision, Brier, calibration error, sensitivity and thresholds: against scikit-learn and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, brier_score_loss, recall_score, roc_curve

from lavq_core.metrics.classification import (
    sensitivity_specificity,
    sensitivity_threshold,
    weighted_auprc,
    weighted_brier,
    weighted_ece,
    youden_threshold,
)

SEEDS = st.integers(0, 2**32 - 1)


def scored(seed: int, n: int, levels: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Labels with both values, and related probabilities with ties."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.4).astype(float)
    labels[:2] = 0.0, 1.0
    return labels, np.round(np.clip(0.3 * labels + 0.7 * rng.random(n), 0, 1) * levels) / levels


def once(n: int) -> np.ndarray:
    return np.ones((1, n))


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, n=st.integers(2, 60), levels=st.sampled_from([1, 4, 1000]))
def test_average_precision_and_brier_are_scikit_learns(seed: int, n: int, levels: int) -> None:
    labels, p = scored(seed, n, levels)
    assert weighted_auprc(labels, p, once(n))[0] == pytest.approx(average_precision_score(labels, p))
    assert weighted_brier(labels, p, once(n))[0] == pytest.approx(brier_score_loss(labels, p))


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS, n=st.integers(4, 30))
def test_a_weight_is_a_number_of_copies(seed: int, n: int) -> None:
    labels, p = scored(seed, n)
    weights = np.random.default_rng(seed).integers(0, 4, size=(3, n))
    for i, copies in enumerate(weights):
        y, q = np.repeat(labels, copies), np.repeat(p, copies)
        if 0 < y.sum() < len(y):
            assert weighted_auprc(labels, p, weights)[i] == pytest.approx(average_precision_score(y, q))
            assert weighted_brier(labels, p, weights)[i] == pytest.approx(brier_score_loss(y, q))
            found = sensitivity_specificity(labels, p, 0.5, weights)
            assert found[0][i] == pytest.approx(recall_score(y, q >= 0.5))
            assert found[1][i] == pytest.approx(recall_score(1 - y, q < 0.5))


def test_without_positives_there_is_no_precision_and_no_sensitivity() -> None:
    labels, p = np.zeros(5), np.linspace(0, 1, 5)
    assert np.isnan(weighted_auprc(labels, p, once(5))).all()
    sensitivity, specificity = sensitivity_specificity(labels, p, 0.5, once(5))
    assert math.isnan(sensitivity[0])
    assert specificity[0] == pytest.approx(2 / 5)
    assert np.isnan(weighted_auprc(np.zeros(0), np.zeros(0), np.ones((2, 0)))).all()


# --- calibration error -----------------------------------------------------------------------------------------------


def test_the_calibration_error_by_hand() -> None:
    """Two groups: .2 said and half true (.3 off), .8 said and all true (.2 off), three records to one."""
    p = np.repeat([0.2, 0.8], [60, 20])
    labels = np.r_[np.tile([0.0, 1.0], 30), np.ones(20)]
    assert weighted_ece(labels, p, once(80))[0] == pytest.approx(0.75 * 0.3 + 0.25 * 0.2)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, bins=st.integers(2, 20))
def test_bins_of_equal_mass_are_scikit_learns(seed: int, bins: int) -> None:
    """With 15 records a bin and no ties, the mean over scikit-learn's quantile bins."""
    n = 15 * bins
    labels, _ = scored(seed, n)
    p = np.random.default_rng(seed + 1).permutation(np.linspace(0.01, 0.99, n))
    true, said = calibration_curve(labels, p, n_bins=15, strategy="quantile")
    assert weighted_ece(labels, p, once(n))[0] == pytest.approx(np.abs(true - said).mean(), abs=0.6 / bins / 15)


def test_a_calibrated_classifier_has_no_more_error_than_its_sample_explains() -> None:
    rng = np.random.default_rng(0)
    p = rng.beta(1, 3, 4000)
    labels = (rng.random(4000) < p).astype(float)
    noise = math.sqrt(30 * float((p * (1 - p)).mean()) / (math.pi * 4000))
    assert weighted_ece(labels, p, once(4000))[0] < 1.5 * noise
    assert weighted_ece(labels, np.sqrt(p), once(4000))[0] > 6 * noise


def test_the_order_of_records_does_not_matter() -> None:
    labels, p = scored(3, 100)
    order = np.random.default_rng(0).permutation(100)
    for measure in (weighted_ece, weighted_auprc, weighted_brier):
        assert measure(labels[order], p[order], once(100))[0] == pytest.approx(measure(labels, p, once(100))[0])


# --- thresholds ------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, n=st.integers(2, 80), wanted=st.sampled_from([0.5, 0.8, 0.9, 1.0]))
def test_the_threshold_is_the_largest_that_reaches_the_sensitivity(seed: int, n: int, wanted: float) -> None:
    labels, p = scored(seed, n)
    threshold = sensitivity_threshold(labels, p, wanted)
    reached = {t: float(sensitivity_specificity(labels, p, t, once(n))[0][0]) for t in np.unique(p)}
    assert reached[threshold] >= wanted - 1e-9
    assert all(value < wanted for t, value in reached.items() if t > threshold)


def test_nine_of_ten_positives_are_nine_of_ten() -> None:
    """.9 times 10 is 9.000000000000002 in floating point, and would ask for all ten."""
    assert sensitivity_threshold(np.ones(10), np.arange(10) / 10, 0.9) == pytest.approx(0.1)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, n=st.integers(2, 80))
def test_youdens_threshold_is_scikit_learns(seed: int, n: int) -> None:
    labels, p = scored(seed, n)
    fpr, tpr, thresholds = roc_curve(labels, p, drop_intermediate=False)
    best = (tpr - fpr)[1:].max()
    sensitivity, specificity = sensitivity_specificity(labels, p, youden_threshold(labels, p), once(n))
    assert sensitivity[0] + specificity[0] - 1 == pytest.approx(best)
    equals = thresholds[1:][np.isclose((tpr - fpr)[1:], best)]
    assert youden_threshold(labels, p) in equals


def test_thresholds_need_what_they_choose_between() -> None:
    with pytest.raises(ValueError, match="positives"):
        sensitivity_threshold(np.zeros(4), np.arange(4) / 4, 0.9)
    with pytest.raises(ValueError, match="negatives"):
        youden_threshold(np.ones(4), np.arange(4) / 4)
