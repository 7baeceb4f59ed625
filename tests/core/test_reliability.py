"""Reliability diagrams: true probabilities lie on the line, others do not, and one person's records count once."""

from __future__ import annotations

import numpy as np
import pytest

from lavq_core.metrics.classification import weighted_ece
from lavq_core.metrics.reliability import reliability


def said(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).beta(0.6, 1.2, size=(n, 5))


def happened(p: np.ndarray, seed: int = 1) -> np.ndarray:
    return (np.random.default_rng(seed).random(p.shape) < p).astype(float)


def test_probabilities_that_are_true_lie_on_the_line_within_their_intervals() -> None:
    p = said(800)
    found = reliability(happened(p), p, np.arange(800))
    assert found is not None
    assert [one.happened.n for one in found.bins] == [400] * 10
    inside = [one.happened.low <= one.said <= one.happened.high for one in found.bins]
    assert sum(inside) >= 8  # of ten 95 % intervals
    assert found.error.value < 0.03


def test_probabilities_that_are_too_sure_do_not() -> None:
    p = said(800)
    sure = p**3 / (p**3 + (1 - p) ** 3)
    found = reliability(happened(p), sure, np.arange(800))
    assert found is not None
    assert found.bins[4].happened.low > found.bins[4].said
    assert found.bins[-1].happened.high < found.bins[-1].said
    assert found.error.low > 0.05


def test_a_bin_is_the_mean_and_the_share_of_its_pairs_and_the_error_is_that_of_all() -> None:
    p = said(60)
    y = happened(p)
    found = reliability(y, p, np.arange(60), draws=20)
    assert found is not None
    order = np.argsort(p.ravel())[: found.bins[0].happened.n]
    assert found.bins[0].said == pytest.approx(p.ravel()[order].mean())
    assert found.bins[0].happened.value == pytest.approx(y.ravel()[order].mean())
    assert sum(one.happened.n for one in found.bins) == 300
    assert found.error.value == pytest.approx(weighted_ece(y.ravel(), p.ravel(), np.ones((1, 300)))[0])


def test_the_records_of_one_person_are_one_piece_of_evidence() -> None:
    p = said(100)
    y = happened(p)
    alone = reliability(y, p, np.arange(100))
    fourfold = reliability(np.tile(y, (4, 1)), np.tile(p, (4, 1)), np.tile(np.arange(100), 4))
    assert alone is not None
    assert fourfold is not None
    widths = [np.mean([one.happened.high - one.happened.low for one in found.bins]) for found in (alone, fourfold)]
    assert widths[1] == pytest.approx(widths[0], rel=0.15)


def test_few_records_give_few_bins_and_none_give_nothing() -> None:
    p = said(6)
    few = reliability(happened(p), p, np.arange(6))
    assert few is not None
    assert len(few.bins) == 1
    assert reliability(p[:0], p[:0], np.arange(0)) is None
