"""What a private separator refuses, how its budget is shared, and what is said of it."""

from __future__ import annotations

import copy

import pytest

from lavq_core.errors import ConfigError
from lavq_core.privacy.accounting import epsilon_of
from lavq_core.privacy.plan import make_plan
from lavq_core.privacy.statement import privacy_statement
from lavq_core.settings import Config
from lavq_core.settings_check import NOT_PRIVATE, check
from tests.core.private_separator.making import ROUNDS, with_sums

# --- what is refused by configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NOT_PRIVATE)
def test_a_loss_that_is_not_of_one_patient_is_refused(config: Config, name: str) -> None:
    leaky = copy.deepcopy(config)
    check(leaky)
    setattr(leaky.separator_training.loss, name, 0.1)
    with pytest.raises(ConfigError, match=f"loss.{name}=0"):
        check(leaky)


def test_a_moving_average_of_codes_is_refused_with_the_reason(config: Config) -> None:
    leaky = copy.deepcopy(config)
    leaky.codebook.ema = 0.99
    with pytest.raises(ConfigError, match=r"codebook\.ema=0: a moving average"):
        check(leaky)
    forced = copy.deepcopy(config)
    forced.privacy.codebook = "ema"
    with pytest.raises(ConfigError, match=r"privacy.codebook must be one of gradient, sums: .* publish patients"):
        check(forced)


# --- plan and statement ----------------------------------------------------------------------------------------------


def test_the_plan_shares_the_budget_and_spends_all_of_it(config: Config) -> None:
    config = copy.deepcopy(config)
    config.privacy.epsilon, config.privacy.delta, config.privacy.separator_rate = 3.0, 1e-5, 0.1
    config.separator_training.steps = config.detector_training.steps = 40
    config.detector_training.epochs = 40
    plan = make_plan(config, ROUNDS)
    assert [m.name for m in plan.of_round(1, sized=False)] == ["size", "centre"]
    assert [m.name for m in plan.of_round(2, sized=True)] == ["detector", "separator", "counts"]
    assert plan.separator is not None
    assert plan.separator.steps.sample_rate == config.privacy.separator_rate
    spent = epsilon_of(plan.whole(), config.privacy.delta)
    assert 0.97 * 3.0 < spent <= 3.0
    one_by_one = [m for number in (1, 2, 3) for m in plan.of_round(number, sized=number > 1)]
    for mechanism in plan.whole():
        parts = [m for m in one_by_one if m.name == mechanism.name]
        assert {m.noise_multiplier for m in parts} == {mechanism.noise_multiplier}
        assert sum(m.steps for m in parts) == mechanism.steps


def test_without_separator_steps_the_plan_is_that_of_the_detector_alone(config: Config) -> None:
    alone = copy.deepcopy(config)
    alone.separator_training.steps = 0
    plan = make_plan(alone, ROUNDS)
    assert plan.separator is None
    assert [m.name for m in plan.whole()] == ["size", "centre", "detector"]
    assert plan.detector.noise_multiplier < make_plan(config, ROUNDS).detector.noise_multiplier


def test_the_statement_names_the_new_releases(config: Config) -> None:
    said = privacy_statement(config)
    assert "4 gradient sums of separator, editor, prior network and codebook clipped to 0.05 a patient" in said
    assert "with every patient in every step, no sampling" in said
    assert "; elsewhere every patient in every step, no sampling; PRV" in said
    assert "2 counts of codes, places and statements (noise multiplier" in said
    assert "with sums of latents" in privacy_statement(with_sums(config))
