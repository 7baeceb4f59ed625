"""Lower bounds of epsilon: what is known by hand, and that they hold as often as they say."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import binom, norm

from lavq_core.privacy.accounting import Mechanism, epsilon_of
from simulations.audit.measure import Proportion
from simulations.audit.privacy.fdp import gaussian_epsilon, mu_lower_bound, refutes_gdp
from simulations.audit.privacy.one_run import (
    SHARES,
    Attack,
    Guesses,
    best_bound,
    epsilon_lower_bound,
    extreme_guesses,
    p_value,
    pair_bound,
)

bound_of = cache(lambda guesses, confidence: epsilon_lower_bound(guesses, 1e-5, confidence))


def gaussian_attack(canaries: int, mu: float, seed: int) -> Attack:
    """Canaries of a Gaussian mechanism: who takes part moves a score by mu standard deviations."""
    generator = np.random.default_rng(seed)
    included = generator.random(canaries) < 0.5
    return Attack("direct", mu * included + generator.normal(size=canaries), included)


# --- the p-value -----------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(made=st.integers(1, 300), share=st.floats(0, 1), epsilon=st.floats(0, 6))
def test_without_delta_it_is_a_binomial_tail(made: int, share: float, epsilon: float) -> None:
    correct = round(share * made)
    right = math.exp(epsilon) / (1 + math.exp(epsilon))
    expected = 1 - binom.cdf(correct - 1, made, right)
    assert p_value(Guesses(1000, made, correct), epsilon, 0.0) == pytest.approx(expected, abs=1e-9)


def test_delta_adds_the_steepest_stretch_below() -> None:
    """Three of four right at epsilon 0, by hand: W is 0 to 4 with chances 1, 4, 6, 4, 1 of 16."""
    below = [6 / 16, (6 + 4) / 16 / 2, (6 + 4 + 1) / 16 / 3]  # of W >= 2, 1, 0, over how far down
    expected = 5 / 16 + 10 * 0.01 * 2 * max(below)
    assert p_value(Guesses(10, 4, 3), 0.0, 0.01) == pytest.approx(expected)


def test_no_right_guess_is_no_evidence() -> None:
    assert p_value(Guesses(10, 4, 0), 3.0, 0.0) == 1.0
    assert epsilon_lower_bound(Guesses(1000, 1000, 500), 1e-5, 0.95) == 0.0


@pytest.mark.parametrize(("canaries", "expected"), [(1000, 5.81), (100, 3.50), (10, 1.05), (4, 0.0)])
def test_a_perfect_attack_shows_what_so_many_canaries_can(canaries: int, expected: float) -> None:
    """All right: (e^eps / (1 + e^eps)) ** m = .05; four coins are all guessed once in 16 times."""
    assert epsilon_lower_bound(Guesses(canaries, canaries, canaries), 0.0, 0.95) == pytest.approx(expected, abs=0.01)


@settings(max_examples=25, deadline=None)
@given(made=st.integers(2, 200), data=st.data())
def test_more_right_guesses_and_less_confidence_never_lower_a_bound(made: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(1, made - 1))
    fewer, more = (epsilon_lower_bound(Guesses(300, made, n), 1e-5, 0.95) for n in (correct, correct + 1))
    assert fewer <= more + 1e-3
    assert epsilon_lower_bound(Guesses(300, made, correct), 1e-5, 0.99) <= fewer + 1e-3


# --- that it holds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_of_randomised_response_it_holds_as_often_as_stated_and_comes_close(epsilon: float) -> None:
    """Every coin is told truly with chance e^eps / (1 + e^eps): the mechanism of the worst case."""
    right = np.random.default_rng(0).binomial(200, 1 / (1 + math.exp(-epsilon)), size=400)
    bounds = np.array([bound_of(Guesses(200, 200, int(v)), 0.95) for v in right])
    assert (bounds > epsilon).mean() <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / 400)
    assert np.median(bounds) > 0.45 * epsilon


@pytest.mark.parametrize(("mu", "share"), [(0.3, 0.0), (1.0, 0.15), (3.0, 0.2)])
def test_of_a_gaussian_mechanism_it_never_passes_the_accountants_epsilon(mu: float, share: float) -> None:
    true = epsilon_of([Mechanism("gaussian", 1 / mu)], 1e-5)
    bounds = [best_bound([gaussian_attack(1000, mu, seed)], 1e-5, 0.95).epsilon for seed in range(5)]
    assert max(bounds) <= true
    assert np.median(bounds) >= share * true


def test_scores_that_know_nothing_show_nothing() -> None:
    generator = np.random.default_rng(3)
    attacks = [Attack("guess", generator.normal(size=400), generator.random(400) < 0.5) for _ in range(40)]
    assert sum(best_bound([attack], 1e-5, 0.95).epsilon > 0 for attack in attacks) <= 5


def test_every_attack_that_is_tried_is_paid_for() -> None:
    good = gaussian_attack(500, 2.0, 0)
    useless = [Attack(f"useless {i}", np.zeros(500), good.included) for i in range(9)]
    alone, among = best_bound([good], 1e-5, 0.95), best_bound([good, *useless], 1e-5, 0.95)
    assert among.attack == alone.attack == "direct"
    assert among.epsilon < alone.epsilon
    assert alone.epsilon == pytest.approx(epsilon_lower_bound(alone.guesses, 1e-5, 1 - 0.05 / len(SHARES)))


@pytest.mark.parametrize("share", SHARES)
def test_half_of_the_guesses_are_that_a_canary_took_part(share: float) -> None:
    included = np.arange(200) % 4 == 0
    guesses = extreme_guesses(Attack("exact", included + np.linspace(0, 0.1, 200), included), share)
    assert guesses.made == round(200 * share)
    assert guesses.correct == (guesses.made if share < 0.5 else 150)  # a quarter took part, a half is said to have


# --- many trainings --------------------------------------------------------------------------------------------------


def test_a_pair_bound_by_hand() -> None:
    """No false accusation in 1,000 and all found: the ends are .025 ** .001 and 1 - that."""
    low = 0.025**0.001
    every, none = Proportion(1000, 1000), Proportion(0, 1000)
    assert pair_bound(every, none, 1e-5, 0.95) == pytest.approx(math.log((low - 1e-5) / (1 - low)))
    assert pair_bound(Proportion(50, 100), Proportion(50, 100), 0.0, 0.95) == 0.0


def test_a_pair_bound_reads_both_directions() -> None:
    """Sure of who did not take part, unsure of the others: the same as its mirror image."""
    one = pair_bound(Proportion(300, 1000), Proportion(0, 1000), 1e-5, 0.95)
    assert one > 3
    assert pair_bound(Proportion(1000, 1000), Proportion(700, 1000), 1e-5, 0.95) == pytest.approx(one)


def test_a_pair_bound_holds_as_often_as_stated() -> None:
    epsilon, generator = 1.0, np.random.default_rng(1)
    right = 1 / (1 + math.exp(-epsilon))
    hits, false = generator.binomial(400, right, 300), generator.binomial(400, 1 - right, 300)
    bounds = [
        pair_bound(Proportion(int(t), 400), Proportion(int(f), 400), 0.0, 0.95)
        for t, f in zip(hits, false, strict=True)
    ]
    assert np.mean(np.array(bounds) > epsilon) <= 0.05
    assert np.median(bounds) > 0.7


# --- the Gaussian diagnostic -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mu", [0.2, 0.7, 1.6, 4.0])
def test_epsilon_of_a_gaussian_trade_off_is_the_accountants(mu: float) -> None:
    assert gaussian_epsilon(mu, 1e-5) == pytest.approx(epsilon_of([Mechanism("gaussian", 1 / mu)], 1e-5), abs=0.02)


@pytest.mark.parametrize("confidence", [0.6, 0.8, 0.95])
def test_one_canary_guessed_right_refutes_what_the_best_test_cannot_do(confidence: float) -> None:
    """With one coin the best test is right with chance Phi(mu / 2), which must reach 1 - confidence: it does always,
    but for a mu so small that .4 or more is asked of two mistakes together."""
    chance = 0.7
    edge = 2 * norm.ppf(chance)
    one = Guesses(1, 1, 1)
    assert refutes_gdp(one, edge - 1e-6, 1 - chance)
    assert not refutes_gdp(one, edge + 1e-6, 1 - chance)
    assert mu_lower_bound(one, confidence) == 0.0


def test_two_canaries_by_hand() -> None:
    """All of two right: R_2 = a, H_2 = 0; H_1 = G(a), R_1 = a + H_1; H_0 = G(R_1), R_0 = R_1; refuted above 1."""
    mu = 0.8

    def down(power: float) -> float:
        return float(norm.cdf(norm.ppf(min(power, 1.0)) - mu))

    def total(level: float) -> float:
        reached = level + down(level)
        return reached + down(reached)

    edge = brentq(lambda level: total(level) - 1, 0.1, 0.7)
    assert refutes_gdp(Guesses(2, 2, 2), mu, 1 - edge - 1e-6)
    assert not refutes_gdp(Guesses(2, 2, 2), mu, 1 - edge + 1e-6)


def test_the_diagnostic_stays_below_the_true_mu_and_above_the_bound_without_it() -> None:
    for seed in range(3):
        guesses = extreme_guesses(gaussian_attack(1000, 1.0, seed), 1.0)
        mu = mu_lower_bound(guesses, 0.95)
        assert 0.2 < mu <= 1.0
        assert gaussian_epsilon(mu, 1e-5) > epsilon_lower_bound(guesses, 1e-5, 0.95)
