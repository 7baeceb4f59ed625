"""How an attack is weighed: exact intervals, no threshold in the attacker's favour, a stated verdict."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from simulations.audit.measure import (
    LEAK,
    NO_LEAK_SHOWN,
    NO_POWER,
    OperatingPoint,
    Proportion,
    attack_auc,
    clopper_pearson,
    operating_point,
    roc_curve,
    verdict,
    worth_trying,
)


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


def test_a_clear_leak_is_found() -> None:
    assert verdict(operating_point(*gaussian_attack(258, 161, 2.5, seed=0))) == LEAK


def test_an_attack_at_chance_is_acquitted_and_hardly_ever_convicted() -> None:
    verdicts = [verdict(operating_point(*gaussian_attack(258, 161, 0.0, seed))) for seed in range(400)]
    assert verdicts.count(LEAK) <= 400 * 0.05
    assert verdicts.count(NO_LEAK_SHOWN) >= 400 * 0.95


def test_the_verdict_follows_its_stated_rule() -> None:
    assert verdict(point(258, 258, 0, 29)) == NO_POWER  # too few non-members, whatever was found
    assert verdict(point(10, 10, 0, 100)) == NO_POWER
    assert verdict(point(30, 60, 0, 40)) == LEAK  # .37 to .63 against at most .09
    assert verdict(point(2, 60, 0, 40)) == NO_POWER  # a tenth found, 6 of 60, could not be told from .09
    assert verdict(point(3, 258, 1, 161)) == NO_LEAK_SHOWN  # a tenth, 26 of 258, could be told from .034


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.data())
def test_the_verdict_never_calls_a_detector_private(members: int, non_members: int, data: st.DataObject) -> None:
    found, accused = data.draw(st.integers(0, members)), data.draw(st.integers(0, non_members // 100))
    said = verdict(point(found, members, accused, non_members))
    assert said in (LEAK, NO_LEAK_SHOWN, NO_POWER)
    if not worth_trying(members, non_members):
        assert said == NO_POWER
    if said == LEAK:
        assert found / members > accused / non_members
