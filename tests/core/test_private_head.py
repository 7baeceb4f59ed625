"""Private training of a detector's head: bounded contributions, honest noise, honest sampling."""

from __future__ import annotations

import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from lavq_core.models.feature_detector import NORM, FeatureDetector
from lavq_core.privacy import noise
from lavq_core.privacy.clipping import clipped_sum, item_weights, release
from lavq_core.privacy.noise import gaussian, poisson_sample, secret_generator
from lavq_core.settings import DetectorTrainingConfig
from lavq_core.signals.description import SIZE
from lavq_core.training import head_training
from lavq_core.training.head_training import PatientItems, released_centre, released_size, train_head

C = 0.5
SETTINGS = DetectorTrainingConfig(epochs=3, steps=3, lr=2.0, momentum=0.9, averaging=0.0)


def items(owners: list[int], seed: int = 0, scale: float = 1.0) -> PatientItems:
    generator = torch.Generator().manual_seed(seed)
    x = scale * torch.randn(len(owners), SIZE, generator=generator) / math.sqrt(SIZE)
    return PatientItems.of(x, (torch.rand(len(owners), 5, generator=generator) > 0.6).float(), np.array(owners))


def without(data: PatientItems, patient: int) -> PatientItems:
    rows = data.owner != patient
    return PatientItems.of(data.x[rows], data.y[rows], data.owner[rows].numpy())


@pytest.fixture
def noiseless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums as they are before noise."""
    monkeypatch.setattr(head_training, "release", lambda total, *_: total)


def model_with(seed: int = 0) -> FeatureDetector:
    model = FeatureDetector(100)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(seed))
    return model


def first_gradient(
    data: PatientItems, model: FeatureDetector | None = None, positive: list[float] | None = None
) -> Tensor:
    """The sum of one step, read off the weights: rate 1, no momentum, divided by 1."""
    model = model or model_with()
    before = model.head.weight.detach().clone()
    one = replace(SETTINGS, epochs=1, steps=1, lr=1.0, momentum=0.0, positive_weights=positive or [])
    train_head(model, data, one, C, 0.0, 1.0)
    return (before - model.head.weight.detach()).double()


# --- sensitivity -----------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    owners=st.lists(st.integers(0, 5), min_size=1, max_size=25),
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
    seed=st.integers(0, 99),
)
def test_one_patient_changes_a_clipped_sum_by_c_at_most_however_many_records(
    owners: list[int], scale: float, seed: int
) -> None:
    data = items(owners, seed, scale)
    left = without(data, 0)
    for whole, rest in (
        (clipped_sum(data.x, data.weight, C), clipped_sum(left.x, left.weight, C)),
        (first_gradient(data).flatten(), first_gradient(left).flatten()),
    ):
        assert float((whole - rest).norm()) <= C * (1 + 1e-6)


def test_a_patient_of_many_alike_records_reaches_c_and_not_more() -> None:
    data = items([0] * 40 + [1])
    data = PatientItems.of(data.x[:1].repeat(41, 1), data.y[:1].repeat(41, 1), np.array([0] * 40 + [1]))
    assert float(first_gradient(data).norm()) == pytest.approx(2 * C, rel=1e-5)


def test_values_that_are_not_finite_take_no_part() -> None:
    data = items([0, 1, 2])
    data.x[1, 3] = math.nan
    data.x[2, 0] = math.inf
    total = clipped_sum(data.x, data.weight, C)
    assert torch.isfinite(total).all()
    assert float(total.norm()) <= C * (1 + 1e-6)


def test_the_gradient_is_that_of_a_loop_over_patients() -> None:
    """One patient at a time by autograd: each item clipped, their mean, the sum."""
    data, model = items([0, 0, 1, 2, 2, 2, 3]), model_with()
    positive = torch.tensor([1.0, 2.0, 1.0, 0.5, 3.0])
    expected = torch.zeros(5, SIZE + 1, dtype=torch.float64)
    for patient in range(data.patients):
        rows = (data.owner == patient).nonzero().flatten()
        for row in rows:
            weights = model.head.weight.detach().double().requires_grad_(True)
            logits = model.standard(data.x[row : row + 1]).double() @ weights.T
            y = data.y[row : row + 1].double()
            loss = F.binary_cross_entropy_with_logits(logits, y, reduction="sum", pos_weight=positive.double())
            (gradient,) = torch.autograd.grad(loss, weights)
            expected += gradient * min(1.0, C / float(gradient.norm())) / len(rows)
    torch.testing.assert_close(first_gradient(data, model, positive.tolist()), expected, atol=1e-6, rtol=1e-5)


def test_no_description_is_longer_than_its_norm() -> None:
    model = model_with()
    model.centre.normal_(generator=torch.Generator().manual_seed(1))
    standard = model.standard(items([0, 1, 2], scale=1e3).x)
    assert float(standard[:, :-1].norm(dim=1).max()) <= NORM * (1 + 1e-6)


def test_an_items_weight_is_one_over_its_patients_number() -> None:
    assert item_weights(["a", "b", "a", "a"]).tolist() == pytest.approx([1 / 3, 1.0, 1 / 3, 1 / 3])


# --- noise and sampling ----------------------------------------------------------------------------------------------


def test_noise_has_its_standard_deviation_and_is_normal() -> None:
    drawn = (release(torch.zeros(200_000), 0.5, 3.0) / 1.5).numpy()
    assert drawn.std() == pytest.approx(1.0, rel=0.01)
    assert abs(drawn.mean()) < 0.01
    assert stats.kstest(drawn, "norm").pvalue > 1e-4


def test_every_step_adds_noise_of_c_times_sigma_over_the_expected_number(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float]] = []
    real = head_training.release

    def watched(total: Tensor, clipping_norm: float, noise_multiplier: float) -> Tensor:
        asked.append((clipping_norm, noise_multiplier))
        return real(total, clipping_norm, noise_multiplier)

    monkeypatch.setattr(head_training, "release", watched)
    sampled = replace(SETTINGS, epochs=2, steps=8)
    train_head(model_with(), items([0, 1, 2]), sampled, C, 4.0, 3.0)
    assert asked == [(C, 4.0)] * 8


def test_a_step_without_patients_still_adds_noise() -> None:
    rare = replace(SETTINGS, epochs=1e-9, steps=1, lr=1e-9, momentum=0.0)
    model = model_with()
    before = model.head.weight.detach().clone()
    train_head(model, items([0, 1]), rare, C, 5.0, 2.0)
    moved = model.head.weight.detach() - before
    assert float(moved.std()) == pytest.approx(5.0 * C / 2.0, rel=0.05)


def test_the_divisor_is_public(noiseless: None) -> None:
    """Twice the patients move the weights twice as far: what is divided by was released, not counted."""
    moved = []
    for copies in (1, 2):
        model, data = model_with(), items([0, 1, 2])
        twice = PatientItems.of(data.x.repeat(copies, 1), data.y.repeat(copies, 1), np.arange(len(data.x) * copies))
        before = model.head.weight.detach().clone()
        train_head(model, twice, replace(SETTINGS, epochs=1, steps=1), C, 1.0, 3.0)
        moved.append(float((model.head.weight.detach() - before).norm()))
    assert moved[1] == pytest.approx(2 * moved[0], rel=1e-4)


def test_inclusion_follows_the_binomial() -> None:
    rate, patients, steps = 0.3, 50, 2000
    counts = np.zeros(patients)
    sizes = []
    for _ in range(steps):
        drawn = poisson_sample(patients, rate)
        counts[drawn.numpy()] += 1
        sizes.append(len(drawn))
    spread = math.sqrt(steps * rate * (1 - rate))
    assert np.abs(counts - steps * rate).max() < 5 * spread
    assert np.var(sizes) == pytest.approx(patients * rate * (1 - rate), rel=0.15)  # a fixed batch would have 0
    assert poisson_sample(7, 1.0).tolist() == list(range(7))


def test_no_seed_makes_noise_repeat() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    first = gaussian((64,), 1.0)
    torch.manual_seed(0)
    np.random.seed(0)
    assert not torch.equal(first, gaussian((64,), 1.0))


def test_nobody_knows_the_seed_of_the_other_draws() -> None:
    torch.manual_seed(0)
    assert len({secret_generator().initial_seed() for _ in range(8)}) == 8


def _draw(_: int) -> list[float]:
    return gaussian((8,), 1.0).tolist()


def test_two_processes_never_draw_the_same_noise() -> None:
    # Not multiprocessing's Pool, which ends its processes by a signal that they may have inherited a handler of.
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        drawn = list(pool.map(_draw, range(20)))
    assert len({tuple(row) for row in drawn}) == 20


def test_nothing_in_the_noise_module_takes_a_seed() -> None:
    import inspect

    for function in (gaussian, poisson_sample, secret_generator, noise._generator):
        assert not {"seed", "generator"} & set(inspect.signature(function).parameters)


# --- what is released of the patients themselves ---------------------------------------------------------------------


def test_the_centre_is_the_mean_over_patients_plus_noise_of_a_known_size() -> None:
    data = items([0, 0, 0, 1], scale=0.3)
    exact = released_centre(data, 2.0, 0.0)
    by_patient = torch.stack([data.x[:3].mean(0), data.x[3]])
    torch.testing.assert_close(exact, by_patient.mean(0), atol=1e-6, rtol=1e-4)
    noisy = released_centre(data, 2.0, 7.0) - exact
    assert float(noisy.std()) == pytest.approx(7.0 * NORM / 2.0, rel=0.1)


def test_the_size_counts_patients_not_records() -> None:
    assert released_size(items([3, 3, 3, 9]), 0.0) == 2.0
    assert released_size(items([3]), 1e6) >= 1.0
    sizes = [released_size(items([0, 1, 2] * 20), 2.0) for _ in range(400)]
    assert np.std(sizes) < 2.2  # clamped below at 1


def test_training_learns_and_averages() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, SIZE, generator=generator) / math.sqrt(SIZE)
    y = (x[:, :5] > 0).float()
    data = PatientItems.of(x, y, np.arange(300))
    losses = {}
    for averaging in (0.0, 0.3):
        model = FeatureDetector(100)
        long = replace(SETTINGS, epochs=60, steps=60, lr=5.0, averaging=averaging)
        losses[averaging] = train_head(model, data, long, C, 0.0, 300.0)
        assert losses[averaging] < 0.55 < math.log(2)
    assert losses[0.0] != losses[0.3]
