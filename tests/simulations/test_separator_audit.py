"""The audit of the separator's private steps: it convicts what is broken and acquits what is sound."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.models.networks import Networks
from lavq_core.settings import Config
from lavq_core.training.private_separator import PrivateSeparatorTrainer
from lavq_core.training.site_data import SiteData
from simulations.audit.bench import planted_separator
from simulations.audit.bench.planted_separator import (
    CASES,
    batch_clipping,
    counts_without_noise,
    half_noise,
)
from simulations.audit.privacy.noise_check import FALSE_ALARM, parts_test, scale_test
from simulations.audit.privacy.sampling_check import sampled_ratio, sampling_tests
from simulations.audit.privacy.separator.canaries import MANY, NONE, GradientCanaries, together
from simulations.audit.privacy.separator.training_step import audit_separator_step, canary_scores
from simulations.audit.privacy.step_audit import StepAudit

FEW = 60  # canaries
PATIENTS, STEPS, RATE = 500, 40, 0.1


@pytest.fixture(scope="module")
def config() -> Config:
    """Networks of a few thousand weights, two rounds of one step."""
    return compose(
        ["privacy=eps1", "federation.share=[separator,editor,prior]", "separator_training.steps=1",
         "privacy.separator_rate=.9", "separator.width=16", "separator.blocks=1", "separator.heads=2",
         "codebook.size=6", "codebook.dim=8", "text.width=12"]
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(sample_database: Database, config: Config) -> SiteData:
    return SiteData("bench", sample_database, np.arange(0, len(sample_database), 12), config)


@pytest.fixture
def played(config: Config, site: SiteData) -> Callable[..., StepAudit]:
    """Audit a training of few canaries in which something is planted."""

    def play(planted: Callable[[], AbstractContextManager[Any]] = nullcontext) -> StepAudit:
        with planted():
            return audit_separator_step(config, site, 0, canaries=FEW, with_many=12)

    return play


# --- it convicts, it acquits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["planted/separator-noise-skipped", "planted/separator-public-seed"])
def test_the_bench_convicts_by_canaries_and_by_exact_tests(
    monkeypatch: pytest.MonkeyPatch, config: Config, site: SiteData, name: str
) -> None:
    monkeypatch.setattr(planted_separator, "bench_config", lambda _: config)
    monkeypatch.setattr(planted_separator, "bench_site", lambda: site)
    few = partial(audit_separator_step, canaries=FEW, with_many=12)
    monkeypatch.setattr(planted_separator, "audit_separator_step", few)
    bound, noise = next(case for case in CASES if case.name == name).play(0)
    assert bound.value > 1
    assert bound.flagged
    assert noise.flagged


def test_planted_and_sound_cases_are_both_there() -> None:
    assert {case.name.split("/")[0]: case.guilty for case in CASES} == {"planted": True, "correct": False}


def test_half_of_the_noise_is_flagged_by_its_exact_test(played) -> None:
    assert re.search(r"noise of the separator's steps is 0\.(49|50)", "\n".join(played(half_noise).reasons))


def test_sound_steps_are_not_flagged(played) -> None:
    audit = played()
    assert audit.reasons == ()
    assert audit.epsilon_lower_bound <= audit.claimed == 1
    assert audit.noise.ratio == pytest.approx(1, abs=0.02)
    assert {"sampling rate", "sampling of steps", "sampling of patients", "sampling repeated"} <= {
        finding.name for finding in audit.findings
    }


def test_counts_without_noise_are_flagged_where_codes_are_learned_from_them(config: Config, site: SiteData) -> None:
    """The codes are then no part of the steps; sums of latents are in the counts."""
    sums = replace(config, privacy=replace(config.privacy, codebook="sums"))
    with counts_without_noise():
        audit = audit_separator_step(sums, site, 0, canaries=FEW, with_many=12)
    assert all("codebook's counts" in reason for reason in audit.reasons)
    assert len(audit.reasons) == 2  # scale and distribution


def test_what_moves_or_leaves_beside_the_released_sums_is_flagged(monkeypatch: pytest.MonkeyPatch, played) -> None:
    """A moving average of the codes, as off-the-shelf codebooks have it, and a weight that is set once at the end."""
    step, run = PrivateSeparatorTrainer.step, PrivateSeparatorTrainer.run

    def moved(self: PrivateSeparatorTrainer, data, owner: Tensor, rows: Tensor) -> None:
        step(self, data, owner, rows)
        with torch.no_grad():
            self.losses.codes[0] += 0.01 * data.x.mean()

    def left(self: PrivateSeparatorTrainer, data, owner: Tensor, steps: int) -> None:
        run(self, data, owner, 2)
        with torch.no_grad():
            self.networks.editor.paint.bias += data.x.mean()

    shared = Networks.shared
    monkeypatch.setattr(Networks, "shared", lambda self, names: shared(self, names) | {"mean": torch.zeros(3)})
    monkeypatch.setattr(PrivateSeparatorTrainer, "step", moved)
    monkeypatch.setattr(PrivateSeparatorTrainer, "run", left)
    reasons = played().reasons
    assert "round 1: before step 2 weights have moved otherwise than the released sums make them" in reasons
    assert "round 1: networks/editor.paint.bias is not what the released sums make" in reasons
    assert "round 2: networks/mean has left" in reasons
    assert "round 2: what became of the codes is not what the released sums make" in reasons
    assert "round 1: networks/separator.gate.bias is not what the released sums make" not in reasons


def test_patients_who_count_more_than_once_are_flagged(
    monkeypatch: pytest.MonkeyPatch, config: Config, site: SiteData
) -> None:
    """First the mean of all is clipped. Then whoever takes part does so with every record, taken for a patient."""
    loud = replace(config, privacy=replace(config.privacy, epsilon=8.0, separator_rate=1.0))

    def reasons() -> str:
        return "\n".join(audit_separator_step(loud, site, 1, canaries=FEW, with_many=12).reasons)

    with batch_clipping():
        assert "canaries of 1 record in the separator's steps count" in reasons()
    real = PrivateSeparatorTrainer.step
    every = lambda self, owner, patients: torch.isin(owner, patients).nonzero().flatten()  # noqa: E731
    own = lambda self, data, owner, rows: real(self, data, torch.arange(len(owner)), rows)  # noqa: E731
    monkeypatch.setattr(PrivateSeparatorTrainer, "_one_record_each", every)
    monkeypatch.setattr(PrivateSeparatorTrainer, "step", own)
    said = reasons()
    assert "canaries of 10 records in the separator's steps count" in said
    assert "canaries of 1 record in" not in said


# --- canaries --------------------------------------------------------------------------------------------------------


def test_every_tensor_has_a_canary_and_no_weight_has_two() -> None:
    sizes = [5, 1, 300, 40, 2000]
    for seed in range(20):
        canaries = GradientCanaries.draw(50, 10, sizes, seed)
        assert len(set(canaries.axis.tolist())) == 50
        assert set(np.searchsorted(np.cumsum(sizes), canaries.axis, side="right").tolist()) == set(range(5))
        assert sorted(canaries.records.tolist()) == [1] * 40 + [MANY] * 10
    with pytest.raises(ValueError, match="9 canaries"):
        GradientCanaries.draw(10, 0, [4, 6], 0)


def test_coins_are_fair_and_independent() -> None:
    coins = np.stack([GradientCanaries.draw(1000, 200, [5000], seed).included for seed in range(30)])
    assert abs(coins.mean() - 0.5) < 0.015
    assert np.abs(np.corrcoef(coins) - np.eye(30)).max() < 0.15


def test_canaries_are_patients_of_their_own_with_records_like_real_ones(site: SiteData) -> None:
    canaries = GradientCanaries.draw(40, 8, [1000], 0)
    people = together(site.beats, site.beat_owners, canaries)
    real = len(site.beats)
    assert people.real == len(site.beat_owners.unique())
    assert people.owner[:real].tolist() == site.beat_owners.tolist()
    assert people.beats.axis[:real].unique().tolist() == [NONE]
    whose = people.owner[real:] - people.real
    assert sorted(set(whose.tolist())) == np.flatnonzero(canaries.included).tolist()
    assert torch.bincount(whose, minlength=40).tolist() == np.where(canaries.included, canaries.records, 0).tolist()
    assert people.beats.axis[real:].tolist() == canaries.axis[whose.numpy()].tolist()
    assert torch.equal(people.beats.x[real:], people.beats.x[people.copy_of[real:]])
    assert 0 < len(people.beats.abnormal()) < len(people.beats)


def test_a_canary_is_found_by_what_it_adds_and_not_by_the_data_of_others() -> None:
    """In 20 steps of rate 1/2 at noise 1/2, a canary adds 2 to its weight whenever it takes part."""
    generator = np.random.default_rng(0)
    canaries = GradientCanaries.draw(400, 0, [3000], 0)
    left = generator.normal(size=(20, 3000))
    left[:, canaries.axis] += 2 * canaries.included * (generator.random((20, 400)) < 0.5)
    scores = canary_scores(canaries, left, 0.5, 0.5)
    assert (scores[canaries.included] > 0).mean() > 0.97
    assert (scores[~canaries.included] < 0).mean() > 0.97


def test_a_part_of_the_weights_without_noise_is_found_among_all() -> None:
    noise = np.random.default_rng(0).normal(size=(20, 4000))
    parts = {"gate": 100, "stem": 3800, "codes": 100}
    assert not parts_test("steps", noise, parts).fails(1)
    noise[:, 3900:] *= 0.8
    found = parts_test("steps", noise, parts)
    assert found.fails(20)
    assert found.text.startswith("noise of codes in the steps is 0.7")
    assert not scale_test("steps", noise).fails(20)


# --- sampling --------------------------------------------------------------------------------------------------------


def poisson(seed: int, rate: float = RATE) -> np.ndarray:
    return np.random.default_rng(seed).random((STEPS, PATIENTS)) < rate


def failed(took_part: np.ndarray, replayed: np.ndarray | None = None, rate: float = RATE) -> list[str]:
    tests = sampling_tests(took_part, rate, poisson(1000) if replayed is None else replayed)
    return [finding.name for finding in tests if finding.fails(20)]


def test_poisson_sampling_passes_and_its_p_values_are_what_they_say() -> None:
    found = np.array([[t.p for t in sampling_tests(poisson(s), RATE, poisson(s + 500))] for s in range(400)])
    below = (found < 0.1).mean(axis=0)
    assert (below < 0.145).all()
    assert (below[1:3] > 0.06).all()  # the spreads' are continuous
    assert found.min() > FALSE_ALARM / 20


def test_batches_of_a_fixed_size_fail() -> None:
    orders = [np.random.default_rng(step).permutation(PATIENTS) < RATE * PATIENTS for step in range(STEPS)]
    assert failed(np.stack(orders)) == ["sampling of steps"]


def test_an_order_that_is_gone_through_once_an_epoch_fails() -> None:
    steps = round(1 / RATE)
    turn = np.concatenate([np.random.default_rng(e).permutation(PATIENTS) % steps for e in range(STEPS // steps)])
    took_part = np.stack([turn.reshape(-1, PATIENTS)[t // steps] == t % steps for t in range(STEPS)])
    assert failed(took_part) == ["sampling of steps", "sampling of patients"]


def test_another_rate_and_draws_that_come_again_fail() -> None:
    assert "sampling rate" in failed(poisson(3, 0.12))
    assert failed(poisson(4), poisson(4)) == ["sampling repeated"]


def test_where_all_take_part_nobody_may_be_absent() -> None:
    everybody = np.ones((STEPS, PATIENTS), dtype=bool)
    assert failed(everybody, everybody, rate=1.0) == []
    everybody[3, 7] = False
    assert failed(everybody, everybody, rate=1.0) == ["sampling"]


def test_the_likelihood_of_sampled_steps_by_hand() -> None:
    ratios = np.log([[2.0, 0.5], [4.0, 1.0]])
    np.testing.assert_allclose(np.exp(sampled_ratio(ratios, 1.0)), [8.0, 0.5])
    np.testing.assert_allclose(np.exp(sampled_ratio(ratios, 0.25)), [1.25 * 1.75, 0.875 * 1.0])
