"""A round's steps: batches proportional to the sites' sizes, one schedule, and moments that go on."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lavq_core.models.detector import Detector, build_detector
from lavq_core.settings import Config, DetectorConfig, DetectorTrainingConfig
from lavq_core.training import detector_training
from lavq_core.training.detector_training import LabelledEcgs, Stretch, make_optimiser, take_steps, train_detector
from lavq_core.training.local_steps import (
    Round,
    step_batches,
    steps_in_round,
    train_in_round,
    zero_moments,
)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labelled(count: int, seed: int = 0) -> LabelledEcgs:
    y = (torch.rand(count, 5, generator=rng(seed)) < 0.5).float()
    return LabelledEcgs(torch.randn(count, 8, 100, generator=rng(seed + 1)), y, torch.ones(count))


def fresh() -> Detector:
    return build_detector(DetectorConfig(width=8, blocks=1, dropout=0.0), 100, 0)


@pytest.fixture
def config(make_tiny: Callable[[], Config]) -> Config:
    """No augmentation: what is left to chance is the order of records."""
    tiny = make_tiny()
    for name in ("noise", "amplitude", "shift", "wander", "lead_dropout"):
        setattr(tiny.detector_training, name, 0.0)
    return tiny


def play(
    config: Config, model: Detector, data: LabelledEcgs, number: int, rounds: int, moments: dict[str, Tensor]
) -> dict[str, Tensor]:
    return train_in_round(model, data, config, Round("a", number, rounds), moments, rng(number))[1]


def weights(model: Detector) -> Tensor:
    return torch.cat([value.flatten() for value in model.state_dict().values()])


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epochs", "steps", "sizes"), [(0.25, 36, [4257, 2844, 1702, 460]), (1.0, 10, [100, 57, 9])])
def test_a_batch_is_the_same_share_of_every_site(epochs: float, steps: int, sizes: list[int]) -> None:
    training = DetectorTrainingConfig(epochs=epochs, steps=steps)
    for records in sizes:
        batches = step_batches(records, training, 0, Round("a", 3, 9))
        assert len(batches) == steps == steps_in_round(training, records)
        assert {len(rows) for rows in batches} == {max(1, round(records * epochs / steps))}


@settings(max_examples=30, deadline=None)
@given(records=st.integers(1, 60), steps=st.integers(1, 12), epochs=st.floats(0.1, 1.0), seed=st.integers(0, 99))
def test_over_the_rounds_every_record_comes_as_often(records: int, steps: int, epochs: float, seed: int) -> None:
    training = DetectorTrainingConfig(epochs=epochs, steps=steps)
    rounds = [step_batches(records, training, seed, Round("a", number, 9)) for number in range(1, 10)]
    batches = [rows for chosen in rounds for rows in chosen]
    per_epoch = records // len(batches[0])
    for start in range(0, len(batches), per_epoch):
        epoch = torch.cat(batches[start : start + per_epoch]).tolist()
        assert len(set(epoch)) == len(epoch)  # nobody twice before everybody had a turn
        assert 0 <= min(epoch) <= max(epoch) < records


def test_orders_differ_by_site_seed_and_epoch_and_repeat_otherwise() -> None:
    training = DetectorTrainingConfig(epochs=1.0, steps=4)
    first = step_batches(40, training, 0, Round("a", 1, 9))
    assert all(torch.equal(a, b) for a, b in zip(first, step_batches(40, training, 0, Round("a", 1, 9)), strict=True))
    for other in (Round("b", 1, 9), Round("a", 2, 9)):
        assert not torch.equal(first[0], step_batches(40, training, 0, other)[0])
    assert not torch.equal(first[0], step_batches(40, training, 1, Round("a", 1, 9))[0])


def test_without_steps_a_site_takes_what_its_epochs_need() -> None:
    training = DetectorTrainingConfig(epochs=3.0, batch=8)
    assert [steps_in_round(training, n) for n in (1, 8, 9, 80)] == [3, 3, 6, 30]


# --- moments ---------------------------------------------------------------------------------------------------------


def test_two_rounds_with_moments_are_one_training(config: Config) -> None:
    """One site, its moments carried over, takes the very steps of a training that is never broken off."""
    config.detector_training.steps, config.detector_training.epochs = 3, 0.5
    data, together, broken = labelled(24), fresh(), fresh()
    moments = zero_moments(broken)
    for number in (1, 2):
        moments = play(config, broken, data, number, 2, moments)
    whole = copy.deepcopy(config)
    whole.detector_training.steps, whole.detector_training.epochs = 6, 1.0
    expected = play(whole, together, data, 1, 1, zero_moments(together))
    torch.testing.assert_close(weights(broken), weights(together), rtol=1e-5, atol=1e-6)
    assert moments.keys() == expected.keys()
    for name, value in moments.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-8)
    restarted = fresh()
    for number in (1, 2):
        assert play(config, restarted, data, number, 2, {}) == {}
    assert float((weights(restarted) - weights(together)).abs().max()) > 1e-4


def test_moments_come_back_as_they_were_named_and_the_broadcast_ones_are_left_alone(config: Config) -> None:
    model = fresh()
    sent = zero_moments(model)
    came = play(config, model, labelled(9), 1, 2, sent)
    names = [name for name, _ in model.named_parameters()]
    assert list(came) == [f"{kind}.{name}" for kind in ("first", "second") for name in names] == list(sent)
    for name, value in came.items():
        assert value.shape == sent[name].shape
        assert value.dtype == torch.float32
        assert not sent[name].any()
        assert name.startswith("first.") or bool((value >= 0).all())
    assert any(value.any() for value in came.values())


def test_with_epochs_and_without_moments_a_round_is_train_detector(config: Config) -> None:
    config.detector_training.epochs = 2.0
    data, first, second = labelled(11), fresh(), fresh()
    loss, _ = train_in_round(first, data, config, Round("a", 2, 4), {}, rng(5))
    expected = train_detector(second, data, config.detector_training, 100, 2, rng(5), Stretch(0.25, 0.5))
    assert loss == expected
    assert torch.equal(weights(first), weights(second))


# --- the proximal term -----------------------------------------------------------------------------------------------


def test_the_proximal_term_keeps_a_site_near_the_broadcast_weights(config: Config) -> None:
    ways = []
    for strategy, proximal in (("fedavg", 100.0), ("fedprox", 0.0), ("fedprox", 1.0), ("fedprox", 100.0)):
        config.federation.strategy, config.federation.proximal = strategy, proximal
        model = fresh()
        play(config, model, labelled(40), 1, 1, {})
        ways.append(float((weights(model) - weights(fresh())).norm()))
    assert ways[0] == ways[1]  # other strategies have no such term
    assert ways[1] > 1.02 * ways[2] > 1.02 * ways[3]


def test_the_gradient_of_the_proximal_term_is_mu_times_the_way(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where records teach nothing and weight decay moves the weights, ``mu (w - start)`` is all that pulls back."""
    data, model, seen = labelled(4), fresh(), []
    monkeypatch.setattr(detector_training, "detector_loss", lambda logits, *_: 0.0 * logits.sum())
    config.detector_training.weight_decay, config.detector_training.lr = 10.0, 0.01
    start = [value.detach().clone() for value in model.parameters()]
    optimiser = make_optimiser(model, config.detector_training)
    optimiser.register_step_pre_hook(
        lambda *_: seen.append([(value.grad.clone(), value.detach().clone()) for value in model.parameters()])
    )
    take_steps(model, data, 2 * [torch.arange(4)], optimiser, config.detector_training, 100, 0, proximal=0.05)
    for (gradient, value), before in zip(seen[1], start, strict=True):
        torch.testing.assert_close(gradient, 0.05 * (value - before))
    assert any(float(gradient.abs().max()) > 0 for gradient, _ in seen[1])
    assert all(not gradient.any() for gradient, _ in seen[0])
