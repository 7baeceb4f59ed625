"""AUC against scikit-learn, and intervals that draw patients."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from lavq_core.metrics.auc import Interval, auc_intervals, class_aucs, macro_auc, weighted_auc

SEEDS = st.integers(0, 2**32 - 1)


def scored(seed: int, n: int, levels: int = 8, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Labels and related scores with many ties; every class has positives and negatives."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, classes)) < 0.4).astype(np.float32)
    labels[0], labels[1] = 0.0, 1.0
    scores = np.round((labels + rng.normal(size=labels.shape)) * levels / 4) / levels
    return labels, scores


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, n=st.integers(2, 60), levels=st.sampled_from([1, 4, 1000]))
def test_class_and_macro_auc_are_scikit_learns(seed: int, n: int, levels: int) -> None:
    labels, scores = scored(seed, n, levels)
    expected = roc_auc_score(labels, scores, average=None)
    np.testing.assert_allclose(class_aucs(labels, scores), expected, atol=1e-12)
    assert macro_auc(labels, scores) == pytest.approx(np.mean(expected))


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, n=st.integers(2, 30))
def test_a_weight_is_a_number_of_copies(seed: int, n: int) -> None:
    labels, scores = scored(seed, n, classes=1)
    weights = np.random.default_rng(seed).integers(0, 4, size=(3, n))
    found = weighted_auc(labels[:, 0], scores[:, 0], weights)
    for value, copies in zip(found, weights, strict=True):
        repeated = np.repeat(labels[:, 0], copies), np.repeat(scores[:, 0], copies)
        if len(np.unique(repeated[0])) < 2:
            assert math.isnan(value)
        else:
            assert value == pytest.approx(roc_auc_score(*repeated))


def test_by_hand() -> None:
    """Two of the three pairs are ordered, one is tied."""
    labels, scores = np.array([0, 0, 0, 1]), np.array([0.1, 0.2, 0.3, 0.3])
    assert weighted_auc(labels, scores, np.ones((1, 4)))[0] == pytest.approx(2.5 / 3)


@pytest.mark.parametrize(("labels", "scores"), [([0, 0], [0.1, 0.9]), ([1, 1], [0.1, 0.9]), ([], [])])
def test_without_positives_or_negatives_there_is_no_auc(labels: list[int], scores: list[float]) -> None:
    found = weighted_auc(np.array(labels), np.array(scores), np.ones((2, len(labels))))
    assert np.isnan(found).all()


def test_a_missing_class_is_none_and_left_out_of_the_macro_figure() -> None:
    labels, scores = scored(0, 80)
    labels[:, 2], labels[:, 4] = 0.0, 1.0
    expected = [roc_auc_score(labels[:, c], scores[:, c]) for c in (0, 1, 3)]
    assert np.isnan(class_aucs(labels, scores)[[2, 4]]).all()
    assert macro_auc(labels, scores) == pytest.approx(np.mean(expected))
    macro, classes = auc_intervals(labels, scores, np.arange(80), bootstraps=50)
    assert macro.value == pytest.approx(np.mean(expected))
    assert [c is None for c in classes] == [False, False, True, False, True]


def test_without_any_class_everything_is_unknown() -> None:
    labels, scores = np.zeros((6, 5)), np.random.default_rng(0).random((6, 5))
    assert math.isnan(macro_auc(labels, scores))
    macro, classes = auc_intervals(labels, scores, np.arange(6), bootstraps=20)
    assert math.isnan(macro.value)
    assert math.isnan(macro.low)
    assert classes == [None] * 5


# --- intervals -------------------------------------------------------------------------------------------------------


def width(interval: Interval | None) -> float:
    assert interval is not None
    return interval.high - interval.low


def test_intervals_hold_the_figure_and_the_number_of_records() -> None:
    labels, scores = scored(1, 200)
    macro, classes = auc_intervals(labels, scores, np.arange(200), bootstraps=300)
    expected = roc_auc_score(labels, scores, average=None)
    for interval, value in zip([macro, *classes], [expected.mean(), *expected], strict=True):
        assert interval is not None
        assert interval.value == pytest.approx(value)
        assert interval.low < interval.value < interval.high
        assert interval.n == 200


def test_repeating_every_record_of_a_patient_narrows_nothing() -> None:
    """The same ECG filed three times is no evidence; drawing records would shrink the interval by the root of 3."""
    labels, scores = scored(2, 90)
    patients = np.arange(90) // 2
    once, classes_once = auc_intervals(labels, scores, patients, seed=4, bootstraps=200)
    thrice, classes_thrice = auc_intervals(
        np.repeat(labels, 3, axis=0), np.repeat(scores, 3, axis=0), np.repeat(patients, 3), seed=4, bootstraps=200
    )
    for first, second in zip([once, *classes_once], [thrice, *classes_thrice], strict=True):
        assert first is not None
        assert second is not None
        assert (second.value, second.low, second.high) == pytest.approx((first.value, first.low, first.high))
        assert (first.n, second.n) == (90, 270)


def test_fewer_patients_behind_the_same_records_widen_the_interval() -> None:
    labels, scores = scored(3, 40)
    labels, scores = np.repeat(labels, 5, axis=0), np.repeat(scores, 5, axis=0)
    many, _ = auc_intervals(labels, scores, np.arange(200), bootstraps=300)
    few, _ = auc_intervals(labels, scores, np.repeat(np.arange(40), 5), bootstraps=300)
    assert width(few) > 1.5 * width(many)


def test_patients_may_have_any_identifier_in_any_order() -> None:
    labels, scores = scored(4, 60)
    numbers = np.arange(60) // 3
    names = np.array([f"patient {chr(65 + i)}" for i in numbers])
    by_number, by_name = (auc_intervals(labels, scores, p, seed=1, bootstraps=50) for p in (numbers, names))
    assert by_number == by_name
    order = np.random.default_rng(0).permutation(60)
    shuffled, _ = auc_intervals(labels[order], scores[order], numbers[order], seed=1, bootstraps=50)
    assert (shuffled.low, shuffled.high) == pytest.approx((by_number[0].low, by_number[0].high))


def test_the_seed_decides() -> None:
    labels, scores = scored(5, 60)
    first, again, other = (auc_intervals(labels, scores, np.arange(60), seed=s, bootstraps=50)[0] for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_intervals_cover_what_they_should() -> None:
    """95 % intervals of a known AUC, .76, of 60 patients: within what 100 draws can tell from 95."""
    expected = 0.5 * (1 + math.erf(1.0 / 2.0))  # normal scores one standard deviation apart
    hits = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        labels = (np.arange(60) % 2).astype(float)[:, None]
        interval, _ = auc_intervals(labels, labels + rng.normal(size=labels.shape), np.arange(60), bootstraps=200)
        hits += interval.low <= expected <= interval.high
    assert 86 <= hits <= 100
