"""Distances, the fixed feature net and the figures about twins, against what they were defined to be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.signal import resample
from scipy.stats import ks_2samp

from lavq_core.metrics.distances import dtw, frechet_distance, knn_precision_recall
from lavq_core.metrics.features import FEATURES, feature_hash, features, kernels
from lavq_core.metrics.twins import (
    average_treatment_effect,
    bootstrap_auc,
    bootstrap_mean,
    diversity_ratio,
    gate_iou,
    heart_rate_change,
    identity_top1,
    outside_gate_change,
    score_gap,
    unrequested_classes,
    unrequested_rate,
)

SEEDS = st.integers(0, 2**32 - 1)
HASH = "654939e6610a4c26ae803fb907f7cc17f50d17025d02822d6e0687cea96c65dd"


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def strip(beats: np.ndarray, rate: int = 100) -> np.ndarray:
    """ECG ``(1, 8, 10 s)`` with a QRS and a T at each of ``beats`` (s)."""
    time = np.arange(10 * rate) / rate
    wave = np.exp(-(((time[:, None] - beats) / 0.015) ** 2)).sum(1)
    wave += 0.3 * np.exp(-(((time[:, None] - beats - 0.25) / 0.06) ** 2)).sum(1)
    return (np.linspace(0.5, 1.5, 8)[:, None] * wave)[None].astype(np.float32)


# --- dynamic time warping


def loop_dtw(a: np.ndarray, b: np.ndarray, width: int) -> float:
    """The recursion as Sakoe & Chiba wrote it, cell by cell, for one lead."""
    T = len(a)
    cost = np.full((T + 1, T + 1), np.inf)
    cost[0, 0] = 0.0
    for i in range(1, T + 1):
        for j in range(max(1, i - width), min(T, i + width) + 1):
            step = abs(a[i - 1] - b[j - 1])
            cost[i, j] = min(cost[i - 1, j] + step, cost[i, j - 1] + step, cost[i - 1, j - 1] + 2 * step)
    return float(cost[T, T] / (2 * T))


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, T=st.integers(2, 24), band=st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]))
def test_dtw_is_the_naive_loop(seed: int, T: int, band: float) -> None:
    a, b = noise(3, 2, T, seed=seed), noise(3, 2, T, seed=seed + 1)
    scored = [(x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True) for x in (a, b)]
    width = int(np.ceil(band * T))
    expected = [[loop_dtw(scored[0][n, lead], scored[1][n, lead], width) for lead in range(2)] for n in range(3)]
    np.testing.assert_allclose(dtw(a, b, band), np.mean(expected, axis=1), atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, gain=st.floats(0.1, 10), offset=st.floats(-5, 5))
def test_dtw_is_symmetric_and_blind_to_gain_and_offset(seed: int, gain: float, offset: float) -> None:
    a, b = noise(2, 8, 30, seed=seed), noise(2, 8, 30, seed=seed + 1)
    np.testing.assert_allclose(dtw(a, b), dtw(b, a), atol=1e-6)
    np.testing.assert_allclose(dtw(gain * a + offset, b), dtw(a, b), atol=1e-4)
    np.testing.assert_allclose(dtw(a, gain * a + offset), 0, atol=1e-5)


def test_a_wider_band_warps_more_and_a_band_of_0_does_not_warp() -> None:
    a, b = noise(5, 8, 60), noise(5, 8, 60, seed=1)
    one, two = ((x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True) for x in (a, b))
    np.testing.assert_allclose(dtw(a, b, 0), np.abs(one - two).mean(axis=(1, 2)), atol=1e-5)
    bands = np.array([dtw(a, b, band) for band in (0, 0.05, 0.1, 0.3, 1)])
    assert (np.diff(bands, axis=0) <= 1e-6).all()
    shifted = strip(np.arange(0.54, 9.8, 0.8))
    assert dtw(strip(np.arange(0.5, 9.8, 0.8)), shifted)[0] < 0.2 * dtw(strip(np.arange(0.5, 9.8, 0.8)), shifted, 0)[0]


def test_many_pairs_are_warped_as_each_alone() -> None:
    a, b = noise(70, 8, 20), noise(70, 8, 20, seed=1)  # more rows than are warped at once
    np.testing.assert_allclose(dtw(a, b)[[0, 40, 69]], [dtw(a[i : i + 1], b[i : i + 1])[0] for i in (0, 40, 69)])
    assert dtw(a[:0], b[:0]).shape == (0,)


def test_a_flat_lead_is_no_division_by_zero() -> None:
    a, b = np.zeros((1, 1, 10)), np.arange(10.0)[None, None]
    assert dtw(a, a)[0] == 0
    assert 0 < dtw(a, b)[0] < 1


def test_dtw_refuses_unequal_shapes_and_bands_beyond_the_whole() -> None:
    with pytest.raises(ValueError, match="one shape"):
        dtw(np.zeros((1, 8, 10)), np.zeros((1, 8, 11)))
    with pytest.raises(ValueError, match="band"):
        dtw(np.zeros((1, 8, 10)), np.zeros((1, 8, 10)), band=10)


# --- sets of features


def with_moments(n: int, mean: np.ndarray, root: np.ndarray, seed: int = 0) -> np.ndarray:
    """``(n, F)`` with exactly this mean and covariance ``root @ root.T``."""
    x = noise(n, len(mean), seed=seed)
    x -= x.mean(0)
    white = x @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(x, rowvar=False)))).T
    return white @ root.T + mean


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, F=st.integers(1, 6))
def test_frechet_distance_of_gaussians_with_one_set_of_axes(seed: int, F: int) -> None:
    """Closed form: squared distance of means plus that of standard deviations, axis by axis."""
    rng = np.random.default_rng(seed)
    means, deviations = rng.normal(size=(2, F)), rng.uniform(0.1, 3, size=(2, F))
    axes = np.linalg.qr(rng.normal(size=(F, F)))[0]
    a, b = (
        with_moments(40, m, axes @ np.diag(d), seed=i) for i, (m, d) in enumerate(zip(means, deviations, strict=True))
    )
    expected = ((means[0] - means[1]) ** 2).sum() + ((deviations[0] - deviations[1]) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6, abs=1e-8)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_frechet_distance_of_any_covariances_is_the_matrix_roots() -> None:
    a, b = noise(50, 5) @ noise(5, 5, seed=1), noise(60, 5, seed=2) @ noise(5, 5, seed=3) + 1
    S, R = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(S + R - 2 * sqrtm(S @ R).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_is_0_of_a_set_to_itself_even_where_features_repeat() -> None:
    a = np.repeat(noise(30, 4), 3, axis=1)  # rank 4 of 12
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, a[::-1] + 2) == pytest.approx(4 * 12, rel=1e-6)


def test_too_few_examples_for_a_covariance_are_refused() -> None:
    with pytest.raises(ValueError, match="12 examples do not fit a Gaussian of 12 features: bring at least 13"):
        frechet_distance(noise(12, 12), noise(50, 12))


def test_precision_is_what_looks_real_and_recall_what_is_covered() -> None:
    """Two clusters are real; only one is made, and a third of what is made is far from both."""
    left, right, far = noise(40, 2), noise(40, 2, seed=1) + 50, noise(20, 2, seed=2) - 50
    made = np.concatenate([left + 0.01, far])
    precision, recall = knn_precision_recall(np.concatenate([left, right]), made)
    assert precision == pytest.approx(40 / 60)
    assert recall == pytest.approx(0.5)
    assert knn_precision_recall(left, left) == (1.0, 1.0)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, k=st.integers(1, 4))
def test_neighbours_are_counted_as_in_a_loop(seed: int, k: int) -> None:
    real, made = noise(9, 2, seed=seed), noise(7, 2, seed=seed + 1)

    def inside(x: np.ndarray, ball: np.ndarray) -> bool:
        reach = [sorted(np.linalg.norm(ball - c, axis=1))[k] for c in ball]
        return any(np.linalg.norm(x - c) <= r for c, r in zip(ball, reach, strict=True))

    expected = (np.mean([inside(x, real) for x in made]), np.mean([inside(x, made) for x in real]))
    assert knn_precision_recall(real, made, k) == pytest.approx(expected)


def test_precision_needs_more_examples_than_neighbours() -> None:
    with pytest.raises(ValueError, match="3 examples have no 3 neighbours"):
        knn_precision_recall(noise(3, 2), noise(9, 2))


# --- the fixed feature net


def test_the_net_is_the_published_one() -> None:
    assert feature_hash() == HASH
    kernels.cache_clear()
    assert feature_hash() == HASH


def test_features_are_reproducible_finite_and_each_records_own() -> None:
    signals = 0.3 * noise(70, 8, 400)  # more than one batch
    first = features(signals, 100)
    assert first.shape == (70, FEATURES)
    assert np.isfinite(first).all()
    assert ((first[:, : FEATURES // 2] >= 0) & (first[:, : FEATURES // 2] <= 1)).all()
    np.testing.assert_allclose(features(signals[[3, 66]], 100), first[[3, 66]], atol=1e-6)
    assert (first.std(axis=0) > 0).all()


def test_features_do_not_see_an_offset() -> None:
    signals = strip(np.arange(0.4, 9.8, 0.83))
    np.testing.assert_allclose(features(signals + 0.5, 100), features(signals, 100), atol=0.01)


def test_kernels_convolve() -> None:
    kernel, signal = kernels()[0], noise(1, 8, 450).astype(np.float32)
    weights = kernel.drawn - kernel.drawn.mean(axis=1, keepdims=True)
    weights = weights / np.sqrt((weights**2).sum())
    place = 37
    expected = sum(
        weights[c, tap] * signal[0, lead, place + tap * kernel.dilation]
        for c, lead in enumerate(kernel.leads)
        for tap in range(weights.shape[1])
    )
    assert kernel.respond(signal)[0, place] == pytest.approx(expected, abs=1e-5)


def test_the_sampling_rate_hardly_matters() -> None:
    at_100 = np.concatenate([strip(np.arange(0.4, 9.6, rr)) for rr in (0.7, 0.8, 0.9, 1.0)])
    at_500 = resample(at_100, 5000, axis=-1)
    gap = np.abs(features(at_500, 500) - features(at_100, 100)).mean()
    assert gap < 0.1 * np.abs(features(at_100[::-1], 100) - features(at_100, 100)).mean()


def test_what_is_no_ecg_of_4_seconds_is_refused() -> None:
    for signals in (np.zeros((1, 12, 1000)), np.zeros((8, 1000)), np.zeros((1, 8, 399))):
        with pytest.raises(ValueError, match="at least 4 s"):
            features(signals, 100)


# --- still the patient


def test_copies_are_found_strangers_are_not_and_ties_are_misses() -> None:
    gallery = noise(30, 8, 12)
    owners = np.array([4, 9, 29, 0])
    made = gallery[owners].copy()
    made[1] = gallery[10]  # the 10th patient's beat under the name of the 9th
    assert identity_top1(made, owners, gallery, among=30).tolist() == [True, False, True, True]
    gallery[7] = gallery[4]
    assert not identity_top1(made[:1], owners[:1], gallery, among=30)[0]


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, among=st.integers(2, 25))
def test_identity_is_blind_to_offsets_and_follows_its_seed(seed: int, among: int) -> None:
    gallery, owners = noise(25, 8, 6, seed=seed), np.arange(25)
    made = gallery + 0.8 * noise(25, 8, 6, seed=seed + 1)
    hits = identity_top1(made, owners, gallery, among, seed)
    shifted = identity_top1(made + noise(25, 8, 1, seed=seed + 2), owners, gallery, among, seed)
    np.testing.assert_array_equal(hits, shifted)
    if among == 25:  # all others are drawn
        np.testing.assert_array_equal(hits, identity_top1(made, owners, gallery, among, seed + 1))


def test_more_patients_to_be_told_from_make_it_harder() -> None:
    gallery = noise(200, 8, 6)
    made, owners = gallery + 1.2 * noise(200, 8, 6, seed=1), np.arange(200)
    rates = [identity_top1(made, owners, gallery, among).mean() for among in (2, 20, 200)]
    assert rates[0] > rates[1] > rates[2]
    chance = identity_top1(noise(200, 8, 6, seed=2), owners, gallery, among=10).mean()
    assert 0.02 < chance < 0.2


def test_a_gallery_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot draw 400 patients from a gallery of 30"):
        identity_top1(noise(1, 8, 12), np.array([0]), noise(30, 8, 12))
    with pytest.raises(ValueError, match="owner"):
        identity_top1(noise(1, 8, 12), np.array([30]), noise(30, 8, 12), among=5)


def test_diversity_compares_mean_pairwise_distances() -> None:
    real = noise(10, 8, 20)
    assert diversity_ratio(real, real) == pytest.approx(1)
    assert diversity_ratio(0.5 * real + 3, real) == pytest.approx(0.5)
    assert diversity_ratio(np.repeat(real[:1], 4, axis=0), real) == 0
    pair = np.stack([np.zeros((8, 20)), np.tile([2.0, -2.0], (8, 10))])  # RMS distance 2
    assert diversity_ratio(pair, pair / 2) == pytest.approx(2)
    with pytest.raises(ValueError, match="two"):
        diversity_ratio(real[:1], real)


def test_only_what_lies_outside_the_envelope_counts() -> None:
    original = noise(3, 8, 50)
    twin, envelope = original.copy(), np.zeros((3, 50))
    envelope[:, 10:20] = 0.01
    envelope[2] = 1
    twin[:, :, 10:20] += 5
    twin[1, 3, 30] -= 0.002
    np.testing.assert_allclose(outside_gate_change(original, twin, envelope), [0, 2, np.nan], atol=1e-9)


def test_heart_rate_changes_by_the_spacing_of_the_beats() -> None:
    slow, fast = strip(np.arange(0.3, 9.8, 1.0)), strip(np.arange(0.3, 9.8, 0.75))
    silent = np.zeros_like(slow)
    before, after = np.concatenate([slow, fast, slow]), np.concatenate([fast, fast, silent])
    np.testing.assert_allclose(heart_rate_change(before, after, 100), [20, 0, np.nan], atol=0.01)


def test_one_beat_more_at_the_edge_changes_no_rate() -> None:
    rng = np.random.default_rng(0)
    beats = np.cumsum(rng.normal(0.8, 0.02, size=12))
    change = heart_rate_change(strip(beats), strip(beats[1:]), 100)
    assert abs(change[0]) < 1


# --- requested, and nothing beyond it


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, levels=st.sampled_from([3, 1000]))
def test_score_gap_is_the_mean_difference_and_scipys_statistic(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    made, real = rng.integers(0, levels, 30) / levels, rng.integers(0, levels, 50) / levels
    gap = score_gap(made, real)
    assert gap.mean == pytest.approx(made.mean() - real.mean())
    assert gap.ks == pytest.approx(ks_2samp(made, real).statistic)


def test_caricatures_have_a_positive_gap() -> None:
    assert score_gap(np.array([0.9, 1.0]), np.array([0.4, 0.5])) == pytest.approx((0.5, 1.0))
    with pytest.raises(ValueError, match="at least one"):
        score_gap(np.array([]), np.array([0.4]))


def test_unrequested_classes_are_counted_without_norm() -> None:
    scores = np.array([[0.9, 0.8, 0.2, 0.6, 0.1], [0.9, 0.1, 0.5, 0.7, 0.9]])
    requested = np.array([[0, 1, 0, 0, 0], [0, 0, 0, 1, 1]], dtype=bool)
    thresholds = np.array([0.0, 0.5, 0.5, 0.5, 0.5])  # NORM's is passed everywhere
    seen = unrequested_classes(scores, requested, thresholds)
    np.testing.assert_array_equal(seen, [[np.nan, 0, 1, 0], [0, 0, np.nan, np.nan]])
    assert unrequested_rate(scores, requested, thresholds) == pytest.approx(1 / 5)
    assert np.isnan(unrequested_rate(scores, np.ones((2, 5), bool), thresholds))


def test_the_treatment_effect_is_the_mean_change() -> None:
    assert average_treatment_effect(np.array([0.1, 0.2]), np.array([0.9, 0.4])) == pytest.approx(0.5)


def test_gates_overlap_by_intersection_over_union() -> None:
    a = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=bool)
    b = np.array([[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=bool)
    np.testing.assert_allclose(gate_iou(a, b), [1 / 3, 1, 0, np.nan])


# --- the intervals


def test_the_mean_and_its_interval() -> None:
    values = noise(400)
    found = bootstrap_mean(values, np.arange(400))
    assert found.value == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.15)
    assert found.n == 400
    assert found == bootstrap_mean(values, np.arange(400))
    assert found != bootstrap_mean(values, np.arange(400), seed=1)


def test_ten_twins_of_a_patient_are_one_draw() -> None:
    values, patients = noise(50), np.arange(50)
    once = bootstrap_mean(values, patients)
    often = bootstrap_mean(np.repeat(values, 10), np.repeat(patients, 10))
    assert (often.value, often.low, often.high) == pytest.approx((once.value, once.low, once.high))
    assert (once.n, often.n) == (50, 500)


def test_what_is_unknown_is_left_out() -> None:
    values = np.array([1.0, np.nan, 3.0, np.nan])
    found = bootstrap_mean(values, np.array([1, 2, 3, 3]), bootstraps=200)
    assert (found.value, found.low, found.high, found.n) == (2, 1, 3, 2)
    nothing = bootstrap_mean(np.full(3, np.nan), np.arange(3))
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()
    assert nothing.n == 0


def test_the_auc_and_its_interval_with_twins_and_originals_of_the_same_patients() -> None:
    original = noise(80)
    scores, labels = np.r_[original + 0.5, original], np.r_[np.ones(80), np.zeros(80)]
    paired = bootstrap_auc(labels, scores, np.tile(np.arange(80), 2))
    unpaired = bootstrap_auc(labels, scores, np.arange(160))
    wins = (scores[:80, None] > scores[None, 80:]).mean()
    assert paired.value == unpaired.value == pytest.approx(wins)
    assert paired.low < paired.value < paired.high
    assert paired.high - paired.low < 0.7 * (unpaired.high - unpaired.low)  # a patient's own level cancels


def test_an_auc_without_negatives_or_with_unknown_scores() -> None:
    none = bootstrap_auc(np.ones(4), np.arange(4.0), np.arange(4))
    assert np.isnan([none.value, none.low, none.high]).all()
    known = bootstrap_auc(np.array([1, 0, 1]), np.array([2.0, 1.0, np.nan]), np.arange(3), bootstraps=100)
    assert (known.value, known.n) == (1, 2)
