"""How an attack is weighed: exact intervals, no threshold in the attacker's favour, a stated verdict."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, norm
from sklearn.metrics import roc_auc_score

from simulations.audit.finding import RATES, measure, measure_replicas
from simulations.audit.measure import (
    OperatingPoint,
    Proportion,
    attack_auc,
    band,
    clopper_pearson,
    operating_point,
    roc_curve,
)
from simulations.audit.verdict import CONSISTENT, LEAK, NO_POWER, names_members, tells_members, verdict, worth_trying


def gaussian_attack(members: int, non_members: int, edge: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of an attack whose members are shifted by ``edge`` standard deviations."""
    generator = np.random.default_rng(seed)
    scores = np.r_[generator.normal(edge, 1.0, members), generator.normal(0.0, 1.0, non_members)]
    return scores, np.arange(members + non_members) < members


def point(found: int, members: int, accused: int, non_members: int) -> OperatingPoint:
    return OperatingPoint(0.0, Proportion(found, members), Proportion(accused, non_members))


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [
        (0, 10, 0.0, 0.3085),  # the published tables; 0 of n: 1 - .025 ** (1 / n)
        (1, 10, 0.0025, 0.4450),
        (5, 10, 0.1871, 0.8129),
        (10, 10, 0.6915, 1.0),
        (1, 161, 0.000157, 0.03413),
        (10, 100, 0.0490, 0.1762),
    ],
)
def test_clopper_pearson_gives_the_known_intervals(hits: int, trials: int, low: float, high: float) -> None:
    assert clopper_pearson(hits, trials) == pytest.approx((low, high), abs=6e-5)


def test_nothing_is_interpolated_below_one_false_accusation() -> None:
    """With 99 non-members 1 % allows nobody; with 100 it allows one."""
    members = np.array([5.0, 3.0, 1.0])
    for non_members, found, accused in ((99, 1, 0), (100, 2, 1)):
        outsiders = np.r_[4.0, 2.0, np.zeros(non_members - 2)]
        scores, member = np.r_[members, outsiders], np.arange(3 + non_members) < 3
        reached = operating_point(scores, member)
        assert (reached.true_positives.hits, reached.false_positives.hits) == (found, accused)
        assert reached.false_positives.trials == non_members


def test_ties_count_against_the_attack() -> None:
    scores, member = np.r_[np.ones(50), np.ones(200)], np.arange(250) < 50
    reached = operating_point(scores, member)
    assert (reached.true_positives.hits, reached.false_positives.hits) == (0, 0)


@given(
    st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=60).filter(
        lambda rows: {hit for _, hit in rows} == {True, False}
    ),
    st.sampled_from([0.01, 0.1, 0.5]),
)
def test_no_other_threshold_within_the_rate_finds_more(rows: list[tuple[int, bool]], rate: float) -> None:
    scores, member = np.array([float(s) for s, _ in rows]), np.array([hit for _, hit in rows])
    reached = operating_point(scores, member, rate)
    assert reached.false_positives.value <= rate
    for threshold in np.r_[-1.0, scores]:
        if (scores[~member] > threshold).mean() <= rate:
            assert (scores[member] > threshold).sum() <= reached.true_positives.hits


def test_the_roc_and_its_area_agree_with_the_reference() -> None:
    scores, member = gaussian_attack(80, 120, 0.7, seed=0)
    scores = scores.round(1)  # with ties
    fpr, tpr = roc_curve(scores, member)
    area = attack_auc(scores, member)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert np.trapezoid(tpr, fpr) == pytest.approx(area.value)
    assert area.value == pytest.approx(roc_auc_score(member, scores))
    assert area.low < area.value < area.high


def test_a_planted_attack_reads_its_exact_rate() -> None:
    """Scores N(1.5, 1) against N(0, 1): at 1 % false positives exactly P(Z > z_.99 - 1.5) of the members are found."""
    truth = norm.sf(norm.isf(0.01) - 1.5)
    large = operating_point(*gaussian_attack(200_000, 200_000, 1.5, seed=1))
    assert large.true_positives.value == pytest.approx(truth, abs=0.006)
    small = operating_point(*gaussian_attack(400, 100_000, 1.5, seed=2))
    assert small.true_positives.low < truth < small.true_positives.high
    assert attack_auc(*gaussian_attack(1_500, 1_500, 1.5, seed=3)).value == pytest.approx(
        norm.cdf(1.5 / np.sqrt(2.0)), abs=0.02
    )


# The verdict


def test_members_are_told_from_others_as_often_as_mann_and_whitney_say() -> None:
    members, outsiders = 258, 161
    told = 0
    for seed in range(400):
        scores, member = gaussian_attack(members, outsiders, 0.0, seed)
        reference = mannwhitneyu(
            scores[member], scores[~member], alternative="greater", method="asymptotic", use_continuity=False
        )
        auc, p = reference.statistic / (members * outsiders), reference.pvalue
        told += tells_members(auc, members, outsiders)
        assert tells_members(auc, members, outsiders) == (p < 0.05)
    assert told <= 400 * 0.05 + 3 * (400 * 0.05 * 0.95) ** 0.5


def test_an_attack_that_names_nobody_can_still_tell_members_from_others() -> None:
    assert tells_members(0.65, 210, 209, tests=15)
    assert not tells_members(0.55, 210, 209, tests=15)
    assert not tells_members(0.65, 20, 20, tests=15)


def test_a_clear_leak_is_found() -> None:
    assert names_members(operating_point(*gaussian_attack(258, 161, 2.5, seed=0)))


def test_an_attack_at_chance_hardly_ever_names_members() -> None:
    named = [names_members(operating_point(*gaussian_attack(258, 161, 0.0, seed))) for seed in range(400)]
    assert sum(named) <= 400 * 0.05


def test_naming_members_follows_its_stated_rule() -> None:
    assert names_members(point(30, 60, 0, 40))  # .37 to .63 against at most .09
    assert not names_members(point(2, 60, 0, 40))
    assert names_members(point(12, 60, 0, 40))  # .107 against .088
    assert not names_members(point(12, 60, 0, 40), tests=6)  # six attacks share the false alarms of one


@pytest.mark.parametrize(
    ("leaks", "claimed", "bounds", "provable", "checked", "said"),
    [
        ([True], 0.0, [], 0.0, False, LEAK),
        ([False, True], 0.0, [], 0.0, False, LEAK),
        ([False], 0.0, [], 9.0, False, NO_POWER),  # nothing claimed, nothing found: nothing shown
        ([False], 1.0, [0.2, 1.1], 4.0, False, LEAK),
        ([True], 1.0, [0.2], 4.0, True, LEAK),  # the noise is not there
        ([False], 1.0, [0.2], 4.0, False, CONSISTENT),
        ([False], 8.0, [0.2], 4.0, False, NO_POWER),  # not even a perfect attack could contradict 8
        ([False], 8.0, [0.2], 4.0, True, CONSISTENT),  # but the noise was measured
    ],
)
def test_the_verdict_follows_its_stated_rule(
    leaks: list[bool], claimed: float, bounds: list[float], provable: float, checked: bool, said: str
) -> None:
    assert verdict(leaks, claimed, bounds, provable, checked) == said


def test_ten_patients_are_not_worth_an_attack() -> None:
    assert not worth_trying(258, 29)
    assert not worth_trying(10, 100)
    assert worth_trying(30, 30)


# A finding


def test_a_finding_keeps_rates_and_a_curve_with_bands() -> None:
    scores, member = gaussian_attack(300, 2_000, 2.0, seed=5)
    found = measure("detector", "lira", scores, member)
    assert found is not None
    exact = operating_point(scores, member, 0.001)
    metrics = found.metrics()
    assert metrics["audit.detector.lira.tpr_at_01pct_fpr"] == exact.true_positives.value
    assert metrics["audit.detector.lira.tpr_at_01pct_fpr.low"] == exact.true_positives.low
    curve = {name: np.array(values) for name, values in found.curve.items()}
    assert (np.diff(curve["fpr"]) > 0).all()
    assert (curve["low"] <= curve["tpr"]).all()
    assert (curve["tpr"] <= curve["high"]).all()
    assert curve["tpr"][-1] == 1.0


def test_bands_are_clopper_pearson_at_every_point() -> None:
    low, high = band(np.array([0.0, 0.25, 1.0]), 40)
    expected = np.array([clopper_pearson(hits, 40) for hits in (0, 10, 40)])
    np.testing.assert_allclose(np.stack([low, high], axis=1), expected)


def test_who_could_not_be_scored_is_left_out() -> None:
    scores, member = gaussian_attack(60, 60, 1.0, seed=6)
    scores[::2] = np.nan
    found = measure("twins", "density", scores, member)
    assert found is not None
    assert found.points["tpr_at_1pct_fpr"].true_positives.trials == 30
    scores[:40] = np.nan
    assert measure("twins", "density", scores, member) is None  # too few are left to show anything


def test_replicas_are_averaged_with_the_intervals_of_one() -> None:
    drawn = [gaussian_attack(150, 150, 1.5, seed) for seed in range(6)]
    found = measure_replicas("detector", "lira", [scores for scores, _ in drawn], [member for _, member in drawn])
    each = [measure("detector", "lira", *one) for one in drawn]
    assert found is not None
    assert found.auc.value == pytest.approx(np.mean([one.auc.value for one in each if one]))
    for name in RATES:
        mean = np.mean([one.points[name].true_positives.value for one in each if one])
        assert found.points[name].true_positives.value == pytest.approx(mean, abs=0.5 / 150)
        assert found.points[name].true_positives.trials == 150
    assert found.key == "audit.detector.lira.replicas."
