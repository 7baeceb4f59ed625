"""The audit of the real private steps: it convicts what is broken, acquits what is sound, and its tests are exact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.privacy.ledger import Ledger
from lavq_core.privacy.plan import make_plan
from lavq_core.settings import Config
from lavq_core.training import feature_round, head_training
from lavq_core.training.head_training import PatientItems
from lavq_core.training.site_data import SiteData
from simulations.audit.bench import planted_privacy
from simulations.audit.bench.case import Case
from simulations.audit.bench.planted_privacy import CASES, bench_config, noise_skipped, play
from simulations.audit.privacy import training_step, watched_training
from simulations.audit.privacy.canaries import Canaries, together
from simulations.audit.privacy.head_reference import Head
from simulations.audit.privacy.noise_check import (
    FALSE_ALARM,
    Finding,
    each_test,
    noise_scale,
    normal_test,
    repeat_test,
    scale_test,
    size_test,
    sum_tests,
)
from simulations.audit.privacy.public_noise import public_noise_test
from simulations.audit.privacy.training_step import audit_training_step
from simulations.audit.privacy.watched_training import watch_training

GUILTY = [case for case in CASES if case.guilty]
INNOCENT = [case for case in CASES if not case.guilty]
T, D = 24, 2000


@pytest.fixture(scope="module", autouse=True)
def patients(sample_database: Database) -> Iterator[PatientItems]:
    """The bench's patients, from the tests' own cache."""
    site = SiteData("bench", sample_database, np.arange(len(sample_database)), bench_config("eps1"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planted_privacy, "bench_patients", lambda: site.described)
        yield site.described


@pytest.fixture
def few(patients: PatientItems) -> PatientItems:
    rows = patients.owner < 40
    return PatientItems.of(patients.x[rows], patients.y[rows], patients.owner[rows].numpy())


def white(seed: int = 0, steps: int = T, width: int = D) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(steps, width))


def fails(finding: Finding) -> bool:
    return finding.fails(1)


# --- it convicts, it acquits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", GUILTY, ids=lambda case: case.name)
def test_every_planted_bug_is_flagged_by_what_has_to_flag_it(case: Case) -> None:
    first, other = case.play(0)
    assert first.flagged
    if first.metric == "epsilon_lower_bound":
        assert first.value > case.claimed_epsilon
        assert other.flagged  # the exact tests see it too


@pytest.mark.parametrize("case", INNOCENT, ids=lambda case: case.name)
def test_sound_privacy_is_not_flagged(case: Case) -> None:
    outcomes = [outcome for seed in range(2 if case.claimed_epsilon == 1 else 1) for outcome in case.play(seed)]
    assert not any(outcome.flagged for outcome in outcomes)
    bounds = [outcome.value for outcome in outcomes if outcome.metric == "epsilon_lower_bound"]
    if case.claimed_epsilon == 8:
        assert min(bounds) > 1  # it has power: of what is true, a good part is shown


def test_one_step_without_noise_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    real, steps = head_training.release, []

    def release(total: Tensor, clip: float, noise: float) -> Tensor:
        steps.append(total.dim())
        return total if steps.count(2) == 5 and total.dim() == 2 else real(total, clip, noise)

    monkeypatch.setattr(head_training, "release", release)
    audit = play("eps1", nullcontext, 0, 0.95)
    assert audit.epsilon_lower_bound > 3
    assert any("over the steps, noise is 0.0" in reason for reason in audit.reasons)
    assert audit.noise.ratio > 0.95  # all noise together looks nearly as it should


def test_what_leaves_beside_the_released_sums_is_flagged(monkeypatch: pytest.MonkeyPatch, few: PatientItems) -> None:
    real = feature_round._released

    def released(model: object, items: PatientItems, *more: object) -> object:
        update = real(model, items, *more)  # type: ignore[arg-type]
        weights = update.detector["head.weight"] + items.x.mean()
        return replace(update, detector={**update.detector, "head.weight": weights, "mean": items.x.mean(dim=0)})

    monkeypatch.setattr(feature_round, "_released", released)
    monkeypatch.setattr(
        torch.nn.Module, "load_state_dict", _lenient(torch.nn.Module.load_state_dict)
    )  # a server that takes what comes
    audit = audit_training_step(bench_config("eps1"), few, 0, canaries=100, with_many=10)
    assert "round 2: mean has left" in audit.reasons
    assert "round 2: head.weight is not what the released sums make" in audit.reasons


def _lenient(load):
    return lambda self, state, **_: load(self, state, strict=False)


def test_a_ledger_that_says_less_than_was_released_is_flagged(
    monkeypatch: pytest.MonkeyPatch, few: PatientItems
) -> None:
    real = Ledger.write

    def write(self: Ledger, entry) -> None:
        quiet = [replace(one, noise_multiplier=2 * one.noise_multiplier) for one in entry.mechanisms]
        real(self, replace(entry, mechanisms=quiet))

    monkeypatch.setattr(Ledger, "write", write)
    audit = audit_training_step(bench_config("eps1"), few, 0, canaries=100, with_many=10)
    assert audit.epsilon_lower_bound <= audit.if_gaussian <= 1
    assert audit.reasons == ("the ledger holds other mechanisms than the plan",)


def test_a_plan_that_costs_more_than_is_claimed_is_flagged(monkeypatch: pytest.MonkeyPatch, few: PatientItems) -> None:
    """Plan, ledger and noise agree, and all three are of epsilon 8."""
    for module in (feature_round, training_step, watched_training):
        monkeypatch.setattr(module, "make_plan", lambda _, rounds: make_plan(bench_config("eps8"), rounds))
    audit = audit_training_step(bench_config("eps1"), few, 0, canaries=100, with_many=10)
    assert any(reason.startswith("the plan's noise costs epsilon 8.0, and 1 is") for reason in audit.reasons) or any(
        reason.startswith("the plan's noise costs epsilon 7.9") for reason in audit.reasons
    )


# --- patients who are sampled ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sampled() -> Config:
    return compose(["privacy=eps1", "federation.rounds=3", "detector_training.steps=20", "detector_training.epochs=5"])


def test_sampled_steps_are_audited_and_sound_ones_not_flagged(sampled: Config, few: PatientItems) -> None:
    audit = audit_training_step(sampled, few, 0)
    assert audit.reasons == ()
    assert {"sampling rate", "sampling of steps", "sampling of patients"} <= {test.name for test in audit.findings}


def test_sampled_steps_without_noise_are_flagged(sampled: Config, few: PatientItems) -> None:
    with noise_skipped():
        audit = audit_training_step(sampled, few, 0)
    assert audit.epsilon_lower_bound > 3
    assert audit.noise.ratio < 0.01


def test_batches_of_a_fixed_size_are_flagged(
    monkeypatch: pytest.MonkeyPatch, sampled: Config, few: PatientItems
) -> None:
    def fixed(patients: int, rate: float) -> Tensor:
        return torch.from_numpy(np.random.default_rng().permutation(patients)[: round(rate * patients)])

    monkeypatch.setattr(head_training, "poisson_sample", fixed)
    (reason,) = audit_training_step(sampled, few, 0).reasons
    assert reason.startswith("counts of steps spread 0.0")


def test_somebody_absent_where_all_take_part_is_flagged(monkeypatch: pytest.MonkeyPatch, few: PatientItems) -> None:
    monkeypatch.setattr(head_training, "poisson_sample", lambda patients, _: torch.arange(patients - 1))
    (reason,) = audit_training_step(bench_config("eps1"), few, 0, canaries=100, with_many=10).reasons
    assert reason.startswith("patients are absent 16 times")


# --- canaries --------------------------------------------------------------------------------------------------------


def test_a_canary_adds_to_its_own_column_and_to_the_constant_alone() -> None:
    config = bench_config("eps1")
    head, canaries = Head.of(config), Canaries.draw(50, 5, 0)
    assert canaries.records.tolist() == [10] * 5 + [1] * 45
    centre = torch.randn(canaries.x.shape[1], generator=torch.Generator().manual_seed(0)) / 30
    weights = torch.randn(2, 5, len(centre) + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    training = watched_training.WatchedTraining(None, centre, weights, torch.ones(2, 50).bool(), [], [])  # type: ignore[arg-type]
    adds = canaries.signals(weights, centre, head)  # (2, 50, 5)
    for i in (0, 7, 49):
        alone = training.clean(canaries.records_of(np.arange(50) == i), head)
        column = alone.steps[:, :, canaries.axis[i]]  # (2, 5)
        torch.testing.assert_close(column, adds[:, i], rtol=1e-6, atol=1e-9)
        assert float(alone.steps.norm(dim=(1, 2)).max()) == pytest.approx(config.privacy.clipping_norm, rel=1e-5)
        rest = alone.steps.clone()
        rest[:, :, [canaries.axis[i], -1]] = 0
        assert float(rest.abs().max()) < 1e-3 * float(column.abs().max())


def test_coins_are_fair_independent_and_do_not_follow_the_noise() -> None:
    coins = np.stack([Canaries.draw(1000, 200, seed).included for seed in range(30)])
    assert abs(coins.mean() - 0.5) < 0.015
    assert np.abs(np.corrcoef(coins) - np.eye(30)).max() < 0.15


def test_without_noise_what_is_released_is_the_reference_to_rounding(few: PatientItems) -> None:
    config = bench_config("eps1")
    canaries = Canaries.draw(60, 10, 3)
    everybody = together(few, canaries.records_of(canaries.included))
    with noise_skipped():
        training = watch_training(config, everybody)
    clean = training.clean(everybody, Head.of(config))
    assert training.released.size == clean.size == few.patients + canaries.included.sum()
    torch.testing.assert_close(training.released.centre, clean.centre, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(training.released.steps, clean.steps, rtol=1e-3, atol=1e-3)
    assert training.unexplained == []


def test_the_audit_leaves_the_process_generators_as_they_were(few: PatientItems) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    expected = (torch.rand(1).item(), np.random.rand())
    torch.manual_seed(5)
    np.random.seed(5)
    watch_training(bench_config("eps1"), few)
    assert (torch.rand(1).item(), np.random.rand()) == expected


# --- exact tests of noise --------------------------------------------------------------------------------------------


def test_honest_noise_passes_all() -> None:
    for seed in range(4):
        noise = white(seed)
        findings = [
            scale_test("steps", noise), normal_test("steps", noise), each_test("steps'", noise, 0),
            each_test("steps'", noise, 1), repeat_test("steps", noise), repeat_test("steps", noise, white(seed + 50)),
            *sum_tests(noise, {"everybody": white(seed + 90)}), public_noise_test("centre", noise[0], [77, 78]),
        ]  # fmt: skip
        assert min(finding.p for finding in findings) > 1e-4


def test_p_values_of_honest_noise_are_what_they_say() -> None:
    """No more than a tenth below a tenth; those of one statistic alone are uniform."""
    found = [
        [test.p for test in (scale_test("", n), each_test("", n, 0), each_test("", n, 1), repeat_test("", n))]
        for n in (white(seed, 6, 200) for seed in range(200))
    ]
    below = (np.array(found) < 0.1).mean(axis=0)  # (4,)
    assert below[0] == pytest.approx(0.1, abs=0.06)
    assert (below[1:] < 0.17).all()


def test_half_of_the_noise_and_one_percent_less_fail() -> None:
    assert fails(scale_test("steps", 0.5 * white()))
    assert fails(scale_test("steps", 0.99 * white(1, 200, 6310)))
    scale = noise_scale(0.5 * white())
    assert scale.low < 0.5 < scale.high
    assert scale.high - scale.low < 0.01


def test_a_weight_without_noise_fails_and_a_step_without_does() -> None:
    noise = white()
    noise[:, 7] = 0
    assert fails(each_test("steps'", noise, 1))
    assert not fails(scale_test("steps", noise))
    noise = white()
    noise[3] = 0
    assert fails(each_test("steps'", noise, 0))


def test_noise_that_repeats_or_has_fewer_dimensions_fails() -> None:
    again = np.concatenate([white(0)[:12], white(0)[:12]])
    assert fails(repeat_test("steps", again))
    assert fails(repeat_test("steps", white(0), white(0)[::-1]))
    for_all_classes = np.tile(white(0, T, D // 5), 5)
    assert not fails(scale_test("steps", for_all_classes))
    assert fails(repeat_test("steps", for_all_classes))


def test_noise_of_another_distribution_fails() -> None:
    generator = np.random.default_rng(0)
    assert fails(normal_test("steps", generator.laplace(scale=2**-0.5, size=(T, D))))
    assert fails(normal_test("steps", generator.uniform(-(3**0.5), 3**0.5, size=(T, D))))


def test_patients_who_count_twice_fail_and_are_named() -> None:
    sums = white(1)
    (finding,) = sum_tests(white(0) + sums, {"guests": sums})
    assert fails(finding)
    assert finding.text.startswith(("guests count 1.99", "guests count 2.0"))


def test_exact_numbers_of_patients_fail_and_so_do_far_ones() -> None:
    assert fails(size_test([0.0, 0.0]))
    assert fails(size_test([6.0, 0.1]))
    assert not fails(size_test([0.4, -1.2]))


@pytest.mark.parametrize("seed", [0, 7])
def test_noise_from_a_seed_that_anybody_would_try_fails(seed: int) -> None:
    for drawn in (
        np.random.default_rng(seed).normal(size=D),
        torch.randn(D, generator=torch.Generator().manual_seed(seed)).numpy().astype(float),
    ):
        assert fails(public_noise_test("centre", 0.3 * drawn + 0.7 * white(5)[0], [0, seed]))


def test_a_value_that_is_no_number_fails() -> None:
    assert Finding("x", float("nan"), "x").fails(1)
    assert not Finding("x", FALSE_ALARM, "x").fails(1)
