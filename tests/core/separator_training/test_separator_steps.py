"""A step of the separator's training: what it measures, reaches and leaves alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from lavq_core.errors import RunError
from lavq_core.models.codebook import quantise
from lavq_core.models.networks import make_networks
from lavq_core.settings import Config
from lavq_core.training import separator_training
from lavq_core.training.guided import GuidedBeats
from lavq_core.training.separator_training import SeparatorTrainer
from tests.core.separator_training.trainers import batch_of, codebook_of, equal, judge_of, rng, trainer_of, weights

# --- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("judged", [False, True])
def test_a_few_steps_lower_the_loss(tiny: Config, records: GuidedBeats, judged: bool) -> None:
    tiny.separator_training.loss.adversarial = tiny.separator_training.loss.statements = 0.0  # opponents learn too
    tiny.separator_training.lr = 1e-2
    trainer = trainer_of(tiny, judge_of(tiny) if judged else None)
    sick, healthy = batch_of(records)
    losses = [trainer.step(sick, healthy)["separator_loss"] for _ in range(14)]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_a_step_measures_what_the_site_logs(tiny: Config, records: GuidedBeats) -> None:
    measured = trainer_of(tiny).step(*batch_of(records))
    assert {
        "separator_loss",
        "reconstruction",
        "prior",
        "adversarial",
        "discriminator",
        "statements",
        "classifier",
    } <= measured.keys()
    assert all(np.isfinite(value) for value in measured.values())
    assert 0 <= measured["gate_abnormal"] <= 1
    assert 0 <= measured["gate_norm"] <= 1
    judged = trainer_of(tiny, judge_of(tiny)).step(*batch_of(records))
    assert {"judge_twin", "judge_healed"} <= judged.keys()
    assert not {"judge_twin", "judge_healed"} & measured.keys()


def test_a_step_reaches_every_weight_of_every_network(tiny: Config, records: GuidedBeats) -> None:
    trainer = trainer_of(tiny, judge_of(tiny))
    with torch.no_grad():
        trainer.networks.separator.gate.bias.add_(0.2)  # opens: nothing is learned of codes behind a shut gate
    before_them = {name: value.detach().clone() for name, value in trainer.opponents.named_parameters()}
    assert {name.split(".")[0] for name in before_them} == {"discriminator", "classifier"}
    before = weights(trainer)
    for _ in range(3):
        trainer.step(*batch_of(records))
    for name, value in weights(trainer).items():
        assert not torch.equal(value, before[name]), name
    for name, value in trainer.opponents.named_parameters():
        if name != "discriminator.score.bias":  # real and made beats within the margin ask for opposite ones
            assert not torch.equal(value, before_them[name]), name


@pytest.mark.parametrize(
    ("weight", "left_out"),
    [("adversarial", {"adversarial", "discriminator"}), ("statements", {"statements", "classifier"})],
)
def test_weight_0_leaves_an_opponent_out(tiny: Config, records: GuidedBeats, weight: str, left_out: set[str]) -> None:
    both = {"adversarial", "discriminator", "statements", "classifier"}
    setattr(tiny.separator_training.loss, weight, 0.0)
    measured = trainer_of(tiny).step(*batch_of(records))
    assert both & measured.keys() == both - left_out


def test_without_opponents_there_is_nobody_to_train(tiny: Config, records: GuidedBeats) -> None:
    tiny.separator_training.loss.adversarial = tiny.separator_training.loss.statements = 0.0
    trainer = trainer_of(tiny)
    trainer.step(*batch_of(records))
    assert not list(trainer.opponents.parameters())
    assert not any(name.startswith("oppo") for name in trainer.keep())


def test_a_round_goes_on_where_the_last_one_stopped(tiny: Config, records: GuidedBeats) -> None:
    """Opponents and both optimisers' moments survive, so that many short rounds are one training."""
    batch = batch_of(records)
    first = trainer_of(tiny)
    for _ in range(2):
        first.step(*batch)
    kept = {name: value.clone() for name, value in first.keep().items()}
    second = SeparatorTrainer(
        copy.deepcopy(first.networks), codebook_of(tiny), None, tiny, rng(5), total=1000, done=102, kept=kept
    )
    assert equal(second.keep(), kept)
    fresh = trainer_of(tiny)
    assert not equal(fresh.keep(), kept)
    assert kept["optimiser.0.step"] == 2
    second.step(*batch)
    assert second.keep()["optimiser.0.step"] == 3


def test_opponents_of_other_settings_are_refused(tiny: Config) -> None:
    kept = trainer_of(tiny).keep()
    tiny.separator_training.loss.statements = 0.0
    with pytest.raises(RunError, match="private_model"):
        SeparatorTrainer(make_networks(tiny, 0), codebook_of(tiny), None, tiny, rng(0), total=10, kept=kept)


def test_a_step_leaves_judge_and_shared_codebook_alone(tiny: Config, records: GuidedBeats) -> None:
    judge, state = judge_of(tiny), codebook_of(tiny)
    before, judge_before = copy.deepcopy(state), copy.deepcopy(judge.state_dict())
    trainer = SeparatorTrainer(make_networks(tiny, 0), state, judge, tiny, rng(0), total=100, done=8)
    for _ in range(3):  # beyond the first revival of dead codes, in step 10
        trainer.step(*batch_of(records))
    assert equal(state, before)
    assert equal(dict(judge.state_dict()), dict(judge_before))
    assert all(parameter.grad is None for parameter in judge.parameters())
    assert not torch.equal(trainer.codes, state["codes"])  # the local copy moved
    torch.testing.assert_close(trainer.codes.norm(dim=-1), torch.ones(tiny.codebook.size))


def test_healthy_records_put_nothing_into_the_codes(tiny: Config, records: GuidedBeats) -> None:
    sick, healthy = batch_of(records)
    codes = []
    for norm in (healthy, replace(healthy, x=healthy.x.flip(0) * 1.5)):
        trainer = trainer_of(tiny)
        trainer.step(sick, norm)
        codes.append(trainer.codes)
    assert torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[0], codebook_of(tiny)["codes"])


def test_the_prior_network_learns_the_symbols_of_abnormal_records_and_moves_no_other(
    tiny: Config, records: GuidedBeats
) -> None:
    """Codes where the gate is open, left normal where it is not; codes do not move so as to be easy to foretell."""
    trainer, given = trainer_of(tiny), []

    def spy(covariates: Tensor, memory: Tensor, mask: Tensor, symbols: Tensor, generator: torch.Generator) -> Tensor:
        given.append((covariates, memory, mask, symbols))
        return torch.zeros((), requires_grad=True)

    sick, healthy = batch_of(records)
    with torch.no_grad():
        found = trainer.networks.separator(sick.x, sick.covariates, sick.valid, sick.memory, sick.mask)
    _, indices = quantise(found.latents, trainer.codes)
    trainer.networks.prior.loss = spy  # type: ignore[method-assign, assignment]
    trainer.step(sick, healthy)
    covariates, memory, mask, symbols = given[0]
    assert torch.equal(covariates, sick.covariates)
    assert torch.equal(memory, sick.asked)
    assert torch.equal(symbols, torch.where(found.gate > 0.5, indices, tiny.codebook.size))
    assert not bool((mask & ~sick.asked_mask).any())
    assert torch.equal(mask.any(1), sick.asked_mask.any(1))


def test_a_request_seldom_names_all_there_is(tiny: Config, records: GuidedBeats) -> None:
    """Some statements of a record are kept from the prior network, never all of them."""
    trainer, shown = trainer_of(tiny), []
    loss = trainer.networks.prior.loss

    def spy(covariates: Tensor, memory: Tensor, mask: Tensor, *rest) -> Tensor:
        shown.append(mask)
        return loss(covariates, memory, mask, *rest)

    trainer.networks.prior.loss = spy  # type: ignore[method-assign, assignment]
    sick, healthy = batch_of(records)
    there = torch.arange(3) < torch.tensor([3, 3, 1, 0])[:, None]
    sick = replace(sick, asked=torch.randn(4, 3, tiny.text.width), asked_mask=there)
    for _ in range(8):
        trainer.step(sick, healthy)
    masks = torch.stack(shown)
    assert not bool((masks & ~there).any())
    assert bool(masks[:, :3].any(-1).all())
    assert bool(masks[:, 2, 0].all())
    assert 0.5 < float(masks[:, :2].float().mean()) < 0.9


@contextmanager
def like_a_gpus(_: torch.device) -> Iterator[None]:
    """Mixed precision as on a GPU in one respect: it refuses the cross-entropy of probabilities."""

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("binary_cross_entropy is unsafe to autocast")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "binary_cross_entropy", refuse)
        yield


def test_no_loss_needs_what_mixed_precision_refuses(
    tiny: Config, records: GuidedBeats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(separator_training, "mixed_precision", like_a_gpus)
    assert trainer_of(tiny, judge_of(tiny)).step(*batch_of(records))


# --- the learning rate -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "done", "share"),
    [(1000, 0, 0.02), (1000, 24, 0.5), (10_000, 50, 1.0), (1000, 500, 0.525), (1000, 1000, 0.05), (1000, 2000, 0.05)],
)
def test_the_learning_rate_rises_and_falls_once_over_all_rounds(
    tiny: Config, records: GuidedBeats, total: int, done: int, share: float
) -> None:
    """Adam's first step moves a weight by the rate."""
    tiny.separator_training.weight_decay = tiny.separator_training.prior_weight_decay = 0.0
    trainer = trainer_of(tiny, total=total, done=done)
    before = weights(trainer)
    trainer.step(*batch_of(records))
    moved = max(float((value - before[name]).abs().max()) for name, value in weights(trainer).items())
    assert moved == pytest.approx(share * tiny.separator_training.lr, rel=0.02)
