"""Concordance within people, and the sign-flip test: against hand-computed cases, loops and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import permutation_test
from sklearn.metrics import roc_auc_score

from lavq_core.metrics.concordance import concordant, sign_flip_p


def test_above_equal_and_below_by_hand() -> None:
    pairs = np.array([[0.9, 0.4], [0.9, 0.6], [0.4, 0.4], [0.4, 0.6]])
    assert concordant(pairs[:, 0], pairs[:, 1]).tolist() == [1.0, 1.0, 0.5, 0.0]


def test_its_mean_over_all_pairs_is_the_area_under_the_curve() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 7), rng.integers(0, 6, 9)  # with ties
    expected = roc_auc_score([1] * 7 + [0] * 9, np.concatenate([a, b]))
    assert concordant(a[:, None], b).mean() == pytest.approx(expected)
    assert concordant(b[:, None], a).mean() == pytest.approx(1.0 - expected)


def test_few_differences_are_tested_exactly() -> None:
    assert sign_flip_p(np.array([0.1, 0.2, 0.3, 0.4])) == 2 / 16  # as it is, and all the other way round
    assert sign_flip_p(np.array([0.1, 0.2, -0.3, 0.4])) == 10 / 16  # by hand: of 16 sums, 10 are .4 or more in size


def test_it_is_scipys_test_of_paired_samples() -> None:
    values = np.random.default_rng(1).normal(0.3, 1.0, 12)
    expected = permutation_test((values, np.zeros(12)), lambda x, y: np.mean(x - y), permutation_type="samples")
    assert sign_flip_p(values) == pytest.approx(expected.pvalue, abs=1e-3)
    many = np.random.default_rng(2).normal(0.25, 1.0, 60)
    expected = permutation_test((many, np.zeros(60)), lambda x, y: np.mean(x - y), permutation_type="samples")
    assert sign_flip_p(many) == pytest.approx(expected.pvalue, abs=0.02)


def test_people_whom_nothing_moved_say_nothing() -> None:
    some = np.array([0.1, 0.2, -0.05, 0.4])
    assert sign_flip_p(np.concatenate([some, np.zeros(30), [np.nan]])) == sign_flip_p(some)
    assert sign_flip_p(np.zeros(10)) == 1.0


def test_false_alarms_are_as_rare_as_stated_and_p_is_never_zero() -> None:
    rng = np.random.default_rng(3)
    alarms = [sign_flip_p(rng.standard_t(3, 10)) < 0.05 for _ in range(400)]
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.03)
    assert 0.0 < sign_flip_p(np.ones(40)) < 1e-3
