"""What private mechanisms cost, against Google's accountant, closed forms and common sense."""

from __future__ import annotations

import math
from functools import cache

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from lavq_core.config import compose
from lavq_core.errors import ConfigError
from lavq_core.privacy.accounting import Mechanism, epsilon_of, rdp_epsilon, scaled_to
from lavq_core.privacy.plan import make_plan, planned_epsilon
from lavq_core.privacy.statement import privacy_statement

SCHEDULES = [
    (1.0, 0.01, 300), (0.8, 0.02, 100), (1.3, 0.05, 200), (2.0, 0.1, 100), (4.0, 0.25, 400),
    (6.4, 0.06, 500), (3.4, 0.01, 3000), (1.05, 0.02, 1000), (5.0, 1.0, 1), (30.0, 1.0, 200),
]  # fmt: skip


def gaussian_epsilon(noise_multiplier: float, delta: float) -> float:
    """Balle & Wang 2018, theorem 8, solved for epsilon."""
    mu = 1 / noise_multiplier

    def excess(epsilon: float) -> float:
        return norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu) - delta

    return brentq(excess, 0, 200)


@pytest.mark.parametrize(("noise", "rate", "steps"), SCHEDULES)
def test_epsilon_agrees_with_googles_accountant(noise: float, rate: float, steps: int) -> None:
    dp_accounting = pytest.importorskip("dp_accounting", reason="install the extra [dev]")
    from dp_accounting.pld import PLDAccountant

    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    theirs = PLDAccountant(value_discretization_interval=1e-3)
    theirs.compose(dp_accounting.SelfComposedDpEvent(event, steps))
    assert epsilon_of([Mechanism("m", noise, rate, steps)], 1e-5) == pytest.approx(theirs.get_epsilon(1e-5), abs=0.02)


def test_full_batch_steps_are_one_gaussian_and_meet_the_closed_form() -> None:
    steps = [Mechanism("a", 20.0, steps=200), Mechanism("b", 3.0), Mechanism("c", 6.0, steps=2)]
    together = (200 / 20**2 + 1 / 3**2 + 2 / 6**2) ** -0.5
    assert epsilon_of(steps, 1e-5) == pytest.approx(gaussian_epsilon(together, 1e-5), abs=0.015)


def test_two_releases_of_one_step_are_one_mechanism_with_less_noise() -> None:
    """Gradient and codebook sums of one Poisson batch: 1/s^2 adds up. Entered as two steps they look far cheaper."""
    joint = (1 / 1.0**2 + 1 / 1.5**2) ** -0.5
    right = epsilon_of([Mechanism("both", joint, 0.05, 300)], 1e-5)
    wrong = epsilon_of([Mechanism("gradient", 1.0, 0.05, 300), Mechanism("codebook", 1.5, 0.05, 300)], 1e-5)
    assert right > wrong + 1


def test_the_reported_epsilon_lies_below_the_renyi_bound_and_order_does_not_matter() -> None:
    mechanisms = [Mechanism("a", 1.2, 0.02, 300), Mechanism("b", 8.0), Mechanism("c", 20.0, steps=50)]
    epsilon = epsilon_of(mechanisms, 1e-5)
    assert 0.7 * rdp_epsilon(mechanisms, 1e-5) < epsilon < rdp_epsilon(mechanisms, 1e-5)
    assert epsilon_of(mechanisms[::-1], 1e-5) == pytest.approx(epsilon, rel=1e-9)
    assert epsilon_of([], 1e-5) == 0.0


def test_accountants_that_contradict_each_other_stop_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lavq_core.privacy.accounting.rdp_epsilon", lambda *_: 0.5)
    with pytest.raises(ArithmeticError, match="RDP bounds it"):
        epsilon_of([Mechanism("a", 1.0)], 1e-5)


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 8.0])
@pytest.mark.parametrize("rate", [0.05, 1.0])
def test_noise_is_solved_from_above_and_hardly_wasted(epsilon: float, rate: float) -> None:
    wanted = [Mechanism("steps", 1.0 if rate < 1 else 10.0, rate, 100), Mechanism("once", 5.0)]
    found = scaled_to(wanted, epsilon, 1e-5)
    assert 0.97 * epsilon <= epsilon_of(found, 1e-5) <= epsilon
    scales = {new.noise_multiplier / old.noise_multiplier for new, old in zip(found, wanted, strict=True)}
    assert max(scales) == pytest.approx(min(scales))


def test_a_budget_that_nothing_meets_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no noise keeps"):
        scaled_to([Mechanism("m", 1e-4, 1.0, 10**9)], 0.01, 1e-5)


@pytest.mark.parametrize(("noise", "rate", "steps"), [(0.0, 1.0, 1), (math.inf, 1.0, 1), (1.0, 0.0, 1), (1.0, 1.0, 0)])
def test_a_mechanism_without_noise_or_steps_is_none(noise: float, rate: float, steps: int) -> None:
    with pytest.raises(ValueError, match="m: "):
        Mechanism("m", noise, rate, steps)


# --- the plan of a training ------------------------------------------------------------------------------------------


@cache
def config(name: str):
    return compose([f"privacy={name}"])


@pytest.mark.parametrize(("name", "epsilon"), [("eps8", 8), ("eps3", 3), ("eps1", 1)])
def test_a_preset_spends_what_its_name_says(name: str, epsilon: float) -> None:
    rounds = config(name).federation.rounds
    assert 0.97 * epsilon <= planned_epsilon(config(name), rounds) <= epsilon
    plan = make_plan(config(name), rounds)
    every = [m for number in range(1, rounds + 1) for m in plan.of_round(number, sized=number > 1)]
    assert epsilon_of(every, 1e-5) == pytest.approx(epsilon_of(plan.whole(), 1e-5), rel=1e-6)


def test_a_site_that_joins_late_still_counts_its_patients() -> None:
    plan = make_plan(config("eps8"), 6)
    assert [m.name for m in plan.of_round(1, sized=False)] == ["size", "centre"]
    assert [m.name for m in plan.of_round(4, sized=False)] == ["size", "detector"]
    assert [m.name for m in plan.of_round(4, sized=True)] == ["detector"]


def test_the_statement_has_its_numbers_and_its_limits() -> None:
    text = privacy_statement(config("eps3"))
    assert "(2.9" in text or "(3.00" in text
    for part in ("1e-05", "add or remove one patient", "6 rounds", "noise multiplier", "every patient", "not covered"):
        assert part in text


def test_without_privacy_no_epsilon_is_named() -> None:
    assert "epsilon" not in privacy_statement(compose([])).lower()
    assert "differential privacy" in privacy_statement(compose([]))
