"""Training of the detector: one schedule over all rounds, weights that count, and the same bits from the same seed."""

from __future__ import annotations

import copy
import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lavq_core.errors import ConfigError
from lavq_core.models.detector import Detector, build_detector
from lavq_core.settings import SCHEDULES, DetectorConfig, DetectorTrainingConfig
from lavq_core.training import detector_training
from lavq_core.training.detector_training import (
    LabelledEcgs,
    Stretch,
    detector_loss,
    learning_rate,
    predict,
    train_detector,
    weight_average,
)
from lavq_core.training.device import pick_device

CONFIG = DetectorTrainingConfig(batch=4, shift=0.1)
SEEDS = st.integers(0, 2**32 - 1)
WHOLE = Stretch()


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labelled(count: int, seed: int = 0, samples: int = 200) -> LabelledEcgs:
    """Records whose label is the height of the first lead."""
    y = (torch.rand(count, 5, generator=rng(seed)) < 0.5).float()
    x = 0.3 * torch.randn(count, 8, samples, generator=rng(seed + 1))
    x[:, :5] += 1.0 * y[:, :, None]
    return LabelledEcgs(x, y, torch.ones(count))


def fresh() -> Detector:
    return build_detector(DetectorConfig(width=8, blocks=1), 100, 0)


def weights(model: Detector) -> list[Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def train(model: Detector, data: LabelledEcgs, seed: int = 0, epochs: int = 1, stretch: Stretch = WHOLE) -> float:
    return train_detector(model, data, CONFIG, 100, epochs, rng(seed), stretch)


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# --- the schedule ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_rate_rises_to_its_peak_and_falls_to_nothing(schedule: str) -> None:
    config = DetectorTrainingConfig(schedule=schedule)
    rates = [learning_rate(config, step / 1000) for step in range(1001)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(2e-3)
    assert 0 < top < 250
    assert all(a < b for a, b in pairwise(rates[: top + 1]))
    assert all(a > b for a, b in pairwise(rates[top:]))
    assert 0 < rates[0] < 1e-4
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(progress=st.floats(0.0, 1.0), step=st.floats(0.0, 1e-6), schedule=st.sampled_from(SCHEDULES))
def test_the_rate_has_no_jump(progress: float, step: float, schedule: str) -> None:
    config = DetectorTrainingConfig(lr=1.0, schedule=schedule)
    assert abs(learning_rate(config, progress) - learning_rate(config, min(1.0, progress + step))) < 1e-4


def test_a_constant_rate_stays_at_its_peak_after_the_warm_up() -> None:
    config = DetectorTrainingConfig(schedule="constant", warmup=0.2)
    rates = [learning_rate(config, progress) for progress in (0.1, 0.2, 0.5, 1.0)]
    assert rates[0] < config.lr
    assert rates[1:] == pytest.approx([config.lr] * 3)


@pytest.mark.parametrize(("records", "rounds", "epochs"), [(8, 3, 2), (9, 4, 1)])
def test_rounds_continue_one_schedule(monkeypatch: pytest.MonkeyPatch, records: int, rounds: int, epochs: int) -> None:
    """Rounds of some epochs see the rates that one long training would."""
    seen: list[float] = []

    def spy(config: DetectorTrainingConfig, progress: float) -> float:
        seen.append(progress)
        return learning_rate(config, progress)

    monkeypatch.setattr(detector_training, "learning_rate", spy)
    data = labelled(records)
    for number in range(1, rounds + 1):
        train(fresh(), data, epochs=epochs, stretch=Stretch((number - 1) / rounds, number / rounds))
    in_rounds, seen = seen, []
    train(fresh(), data, epochs=rounds * epochs)
    assert in_rounds == pytest.approx(seen)
    assert len(seen) == rounds * epochs * math.ceil(records / 4)


# --- the loss --------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_the_loss_is_the_weighted_mean_cross_entropy(seed: int) -> None:
    logits, y = 3 * torch.randn(4, 5, generator=rng(seed)), labelled(4, seed).y
    weight = torch.rand(4, generator=rng(seed)) + 0.1
    total = 0.0
    for b in range(4):
        for c in range(5):
            p = 1 / (1 + math.exp(-float(logits[b, c])))
            total -= float(weight[b]) / 5 * math.log(p if y[b, c] else 1 - p)
    assert float(detector_loss(logits, y, weight)) == pytest.approx(total / float(weight.sum()), rel=1e-4)


def test_a_positive_weight_counts_a_positive_label_so_many_times() -> None:
    """Doubling class 1's positives is the same as finding each of them twice; other classes stay as they are."""
    logits, y = torch.zeros(2, 5), torch.zeros(2, 5)
    y[0, 1] = 1.0
    plain = detector_loss(logits, y, torch.ones(2))
    weighted = detector_loss(logits, y, torch.ones(2), torch.tensor([1.0, 3.0, 1.0, 1.0, 1.0]))
    assert float(plain) == pytest.approx(math.log(2))
    assert float(weighted) == pytest.approx(math.log(2) * 12 / 10)


def test_positive_weights_raise_the_probability_of_their_class_alone() -> None:
    data, found = labelled(24), []
    for weights_of_positives in ([1.0] * 5, [1.0, 1.0, 8.0, 1.0, 1.0]):
        model = fresh()
        config = dataclasses.replace(CONFIG, positive_weights=weights_of_positives, lr=1e-2)
        train_detector(model, data, config, 100, 4, rng(0))
        found.append(predict(model, data.x).mean(dim=0))
    rise = found[1] - found[0]
    assert int(rise.argmax()) == 2
    assert float(rise[2]) > 0.1


# --- weight averaging ------------------------------------------------------------------------------------------------


def test_the_average_is_the_running_mean_of_the_weights() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = weight_average(model, 0.5, 8)  # a memory of 4 steps: decay 3/4
    expected = 0.0
    for step, value in enumerate([1.0, 5.0, -2.0]):
        nn.init.constant_(model.weight, value)
        average.update_parameters(model)
        expected = value if step == 0 else 0.75 * expected + 0.25 * value
    assert float(average.module.weight.detach()) == pytest.approx(expected)


def test_training_ends_with_the_average_when_it_is_asked_for() -> None:
    data = labelled(16)
    plain, averaged, instant = fresh(), fresh(), fresh()
    train(plain, data, epochs=3)
    train_detector(averaged, data, dataclasses.replace(CONFIG, averaging=0.5), 100, 3, rng(0))
    train_detector(instant, data, dataclasses.replace(CONFIG, averaging=1e-6), 100, 3, rng(0))
    assert same(weights(plain), weights(instant))  # a memory below one step is the last weights
    assert not same(weights(plain), weights(averaged))
    assert averaged.state_dict().keys() == plain.state_dict().keys()  # nothing new would leave a site


def test_a_record_without_weight_teaches_nothing() -> None:
    data = labelled(6)
    data.weight[2:4] = 0.0
    other = copy.deepcopy(data)
    other.x[2:4], other.y[2:4] = 5.0, 1.0 - data.y[2:4]
    first, second = fresh(), fresh()
    train(first, data)
    train(second, other)
    for a, b in zip(weights(first), weights(second), strict=True):
        torch.testing.assert_close(a, b)


# --- training --------------------------------------------------------------------------------------------------------


def test_training_teaches() -> None:
    model, data = fresh(), labelled(24)
    config = DetectorTrainingConfig(batch=8, lr=1e-2, noise=0.0, amplitude=0.0, shift=0.0, wander=0.0, lead_dropout=0.0)
    before = float(detector_loss(model(data.x), data.y, data.weight))
    last = train_detector(model, data, config, 100, 20, rng(0))
    after = float(torch.nn.functional.binary_cross_entropy(predict(model, data.x), data.y))
    assert max(last, after) < 0.9 * before


def test_the_same_generator_gives_the_same_bits_whatever_else_drew_numbers() -> None:
    """Dropout and augmentation too: a site's update must be repeatable."""
    data, results = labelled(10), []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        model = fresh()
        results.append((train(model, data, epochs=2), weights(model)))
    assert results[0][0] == results[1][0]
    assert same(results[0][1], results[1][1])
    other = fresh()
    train(other, data, seed=1, epochs=2)
    assert not same(results[0][1], weights(other))


def test_training_draws_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    train(fresh(), labelled(5))
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_is_on_while_training_and_off_afterwards() -> None:
    model = fresh()
    modes: list[bool] = []
    model.dropout.register_forward_hook(lambda module, inputs, output: modes.append(module.training))
    train(model, labelled(5))
    assert all(modes)
    assert not model.training


def test_the_last_smaller_batch_counts_and_every_record_is_seen_once_an_epoch() -> None:
    seen: list[int] = []
    model, data = fresh(), labelled(9)
    model.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    train(model, data, epochs=2)
    assert seen == [4, 4, 1, 4, 4, 1]


def test_training_data_is_not_changed() -> None:
    data = labelled(5)
    before = copy.deepcopy(data)
    train(fresh(), data)
    assert torch.equal(data.x, before.x)
    assert torch.equal(data.y, before.y)


def test_sets_are_put_together_in_order() -> None:
    first, second = labelled(2), labelled(3, seed=7)
    second.weight *= 0.5
    both = first + second
    assert len(both) == 5
    assert torch.equal(both.x, torch.cat([first.x, second.x]))
    assert both.weight.tolist() == [1.0, 1.0, 0.5, 0.5, 0.5]


# --- where -----------------------------------------------------------------------------------------------------------


def test_a_device_is_taken_as_asked_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="no GPU"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")
