"""What makes a private training leak without an error: each is planted once, beside the sound thing, and caught.

Here are those that a step can have. Elsewhere: a moving average of codes, copied latents and class counts at the door
(``private_separator/test_private_round.py``, refused by configuration in ``test_private_plan.py``); a buffer fed by
data, the true number of patients and a loss in the clear (``client/private_site/test_private_site.py``); a patient
entered twice (``test_patient_gradients.py``, ``private_separator/test_clipped_gradients.py``); two releases of one
batch entered as two steps (``test_accounting.py``); and noise that is missing, halved, repeated or publicly seeded in
a whole training (``tests/simulations/test_step_audit.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from lavq_core.models.feature_detector import FeatureDetector
from lavq_core.privacy import noise
from lavq_core.privacy.guard import LeavingRefused, check_leaving, digests
from lavq_core.privacy.noise import gaussian
from lavq_core.privacy.patient_gradients import Items, Loss, Weights, clipped_gradients
from lavq_core.settings import DetectorTrainingConfig
from lavq_core.signals.description import SIZE
from lavq_core.training import head_training
from lavq_core.training.augmentation import augment
from lavq_core.training.head_training import PatientItems, train_head

C, T = 4, 40
CLIP = 0.2
Gradient = dict[str, Tensor]
Summed = Callable[[Tensor], Gradient]  # of the patients whose rows these are


# --- one patient changes a step by C, whatever the others do ---------------------------------------------------------


class Scorer(nn.Module):
    """A convolution, maybe a norm, and five logits."""

    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv1d(C, 6, 5), norm or nn.Identity(), nn.Tanh())
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, T)`` to ``(B, 5)``."""
        return self.head(self.layers(x).mean(-1))


@pytest.fixture
def signals() -> Tensor:
    """One patient is unlike the others."""
    drawn = torch.randn(6, C, T, generator=torch.Generator().manual_seed(1)).cumsum(-1)
    drawn[2] = 30.0 - 5 * drawn[2]
    return drawn


def scorer(norm: nn.Module | None = None) -> Scorer:
    torch.manual_seed(0)
    return Scorer(norm)


def gradients(loss: Loss, model: nn.Module, items: Items) -> Gradient:
    """Every row another patient."""
    owner = torch.arange(len(next(iter(items.values()))))
    return clipped_gradients(loss, dict(model.named_parameters()), items, owner, CLIP)


def of_one(model: nn.Module, target: Tensor | None = None) -> Loss:
    """Distance of one item's logits, and its twin's if it has a donor, from some target."""

    def loss(weights: Weights, item: Items) -> Tensor:
        x = torch.stack([item["x"], item["x"] + item["donor"]]) if "donor" in item else item["x"].unsqueeze(0)
        return (functional_call(model, dict(weights), (x,)) - (1.0 if target is None else target)).square().sum()

    return loss


def most_changed(summed: Summed, patients: int) -> float:
    """The longest change of the sum when one patient is taken out."""
    everybody = torch.arange(patients)
    whole = summed(everybody)
    changes = []
    for patient in range(patients):
        without = summed(everybody[everybody != patient])
        changes.append(torch.cat([(whole[name] - without[name]).flatten() for name in whole]).norm())
    return float(torch.stack(changes).max())


def sound(x: Tensor) -> Summed:
    model = scorer(nn.GroupNorm(2, 6))
    return lambda rows: gradients(of_one(model), model, {"x": x[rows]})


def batch_norm(x: Tensor) -> Summed:
    """Normalised by the batch, and every row's gradient clipped by itself, as hooks would."""
    model = scorer(nn.BatchNorm1d(6, affine=False))

    def summed(rows: Tensor) -> Gradient:
        told = (model(x[rows]) - 1).square().sum(1)  # (m,)
        total = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
        for row in range(len(rows)):
            found = torch.autograd.grad(told[row], list(model.parameters()), retain_graph=True)
            factor = min(1.0, CLIP / float(torch.cat([g.flatten() for g in found]).norm()))
            for name, value in zip(total, found, strict=True):
                total[name] += factor * value
        return total

    return summed


def batch_coupled_loss(x: Tensor) -> Summed:
    """Everybody is compared with the mean of the batch, as by contrast or minibatch deviation."""
    model = scorer()

    def summed(rows: Tensor) -> Gradient:
        return gradients(of_one(model, model(x[rows]).mean(0).detach()), model, {"x": x[rows]})

    return summed


def mixup(x: Tensor) -> Summed:
    """Every record is mixed with the next one of the batch."""
    model = scorer()

    def summed(rows: Tensor) -> Gradient:
        mixed = 0.6 * x[rows] + 0.4 * x[rows].roll(1, 0)
        return gradients(of_one(model), model, {"x": mixed})

    return summed


def reused_in_pairs(x: Tensor) -> Summed:
    """The third patient, or who comes next, is the donor of everybody's twin."""
    model = scorer()

    def summed(rows: Tensor) -> Gradient:
        donor = x[rows][2:3].expand(len(rows), -1, -1)
        return gradients(of_one(model), model, {"x": x[rows], "donor": donor})

    return summed


def two_rows(x: Tensor) -> Summed:
    """A record and its reconstruction, two forwards and one backward, each clipped as if it were somebody."""
    model = scorer()

    def summed(rows: Tensor) -> Gradient:
        both = torch.cat([x[rows], x[rows] + 0.01])
        return gradients(of_one(model), model, {"x": both})

    return summed


def test_a_sound_step_changes_by_no_more_than_c(signals: Tensor) -> None:
    assert 0.9 * CLIP < most_changed(sound(signals), len(signals)) <= CLIP


@pytest.mark.parametrize("leak", [batch_norm, batch_coupled_loss, mixup, reused_in_pairs, two_rows])
def test_what_couples_patients_changes_a_step_by_more(signals: Tensor, leak: Callable[[Tensor], Summed]) -> None:
    assert most_changed(leak(signals), len(signals)) > 1.02 * CLIP


def test_records_augmented_views_and_twins_of_a_patient_count_together(signals: Tensor) -> None:
    """Three records of one patient, two views of each, and something made of them: C, and of two patients 2 C."""
    model, generator = scorer(), torch.Generator().manual_seed(0)
    settings = DetectorTrainingConfig(shift=0.05, lead_dropout=0.0)
    mine = signals[:3]
    views = [augment(mine, settings, 100, generator) for _ in range(2)]
    rows = torch.cat([mine, *views, mine.mean(0, keepdim=True), signals[3:]])
    owner = torch.tensor([0] * 10 + [1, 2, 3])
    weights = dict(model.named_parameters())

    def summed(patients: Tensor) -> Gradient:
        kept = torch.isin(owner, patients)
        return clipped_gradients(of_one(model), weights, {"x": rows[kept]}, owner[kept], CLIP)

    assert 0.9 * CLIP < most_changed(summed, 4) <= CLIP


def test_batch_norm_can_neither_be_trained_through_nor_send_what_it_has_gathered(signals: Tensor) -> None:
    model = scorer(nn.BatchNorm1d(6, affine=False))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"vmap|in-place|inplace"):
        gradients(of_one(model), model, {"x": signals})
    model(signals)  # a forward pass that nobody thinks of
    fed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert fed == {"layers.1.running_mean", "layers.1.running_var", "layers.1.num_batches_tracked"}
    released = digests({"": dict(model.named_parameters())})
    with pytest.raises(LeavingRefused, match=r"running_mean|running_var|num_batches_tracked"):
        check_leaving({"detector": model.state_dict()}, released, {"detector": before})


# --- rate, divisor, number of steps and noise do not follow from the data --------------------------------------------

HEAD = DetectorTrainingConfig(epochs=2, steps=8, lr=1.0, momentum=0.0, averaging=0.0)
RELEASED = 20.0  # patients, a noised number


def patients(number: int, copies: int = 1) -> PatientItems:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(number, SIZE, generator=generator) / SIZE**0.5).repeat(copies, 1)
    y = (x[:, :5] > 0).float()
    return PatientItems.of(x, y, np.arange(len(x)))


def train(data: PatientItems, config: DetectorTrainingConfig = HEAD, noise_multiplier: float = 0.0) -> Tensor:
    """How far the head has moved."""
    model = FeatureDetector(100)
    head_training.train_head(model, data, config, 0.5, noise_multiplier, RELEASED)
    return model.head.weight.detach().clone()


def planted(change: Callable[..., tuple[Any, ...]]) -> AbstractContextManager[Any]:
    """Give ``train_head`` other arguments than it was called with."""
    real = train_head
    return patch.object(head_training, "train_head", lambda *given: real(*change(*given)))


def rates(number: int) -> list[float]:
    """The rates at which so many patients were sampled."""
    asked: list[float] = []
    real = head_training.poisson_sample

    def watched(number: int, rate: float) -> Tensor:
        asked.append(rate)
        return real(number, rate)

    with patch.object(head_training, "poisson_sample", watched):
        train(patients(number))
    return asked


def rate_of_n() -> AbstractContextManager[Any]:
    """A batch of five, whoever there is."""

    def change(model: Any, items: PatientItems, config: DetectorTrainingConfig, *rest: Any) -> tuple[Any, ...]:
        return model, items, replace(config, epochs=config.steps * min(1.0, 5 / items.patients)), *rest

    return planted(change)


@pytest.mark.parametrize("leak", [nullcontext, rate_of_n])
def test_the_sampling_rate_is_the_same_at_every_site(leak: Callable[[], AbstractContextManager[Any]]) -> None:
    with leak():
        small, large = rates(10), rates(40)
    assert (small == large == [HEAD.epochs / HEAD.steps] * HEAD.steps) == (leak is nullcontext)


def divisor_of_n() -> AbstractContextManager[Any]:
    """Sums are divided by how many there are, and not by the released number."""
    return planted(lambda model, items, config, clip, noise, _: (model, items, config, clip, noise, items.patients))


@pytest.mark.parametrize("leak", [nullcontext, divisor_of_n])
def test_twice_the_patients_move_the_weights_twice_as_far(leak: Callable[[], AbstractContextManager[Any]]) -> None:
    once = replace(HEAD, epochs=1, steps=1)
    with leak():
        one, two = (float(train(patients(10, copies), once).norm()) for copies in (1, 2))
    assert (two == pytest.approx(2 * one, rel=1e-4)) == (leak is nullcontext)


def releases(data: PatientItems) -> int:
    """How many noised sums a training released."""
    drawn: list[int] = []
    real = head_training.release

    def watched(*given: Any) -> Tensor:
        drawn.append(1)
        return real(*given)

    with patch.object(head_training, "release", watched):
        train(data, replace(HEAD, epochs=8), noise_multiplier=1.0)
    return len(drawn)


def early_stopping() -> AbstractContextManager[Any]:
    """Fewer steps where the descriptions tell little."""

    def change(model: Any, items: PatientItems, config: DetectorTrainingConfig, *rest: Any) -> tuple[Any, ...]:
        loss = F.binary_cross_entropy_with_logits(items.x[:, :5], items.y)
        steps = config.steps if loss < 0.6931 else 1
        return model, items, replace(config, steps=steps, epochs=steps), *rest

    return planted(change)


@pytest.mark.parametrize("leak", [nullcontext, early_stopping])
def test_every_site_takes_the_same_number_of_steps(leak: Callable[[], AbstractContextManager[Any]]) -> None:
    easy = patients(12)
    hard = replace(easy, y=1 - easy.y)
    with leak():
        assert ([releases(easy), releases(hard)] == [HEAD.steps] * 2) == (leak is nullcontext)


def fixed_seed() -> AbstractContextManager[Any]:
    """A generator that every round starts anew."""
    return patch.object(noise, "_generator", lambda: np.random.Generator(np.random.Philox(key=42)))


@pytest.fixture(params=[nullcontext, fixed_seed])
def seeded(request: pytest.FixtureRequest) -> Iterator[bool]:
    with request.param():
        yield request.param is fixed_seed


def test_no_two_rounds_have_the_same_noise(seeded: bool) -> None:
    """Where they have, the difference of two updates is free of it."""
    data = patients(12)
    first, second = (train(data, noise_multiplier=50.0) for _ in range(2))
    assert torch.equal(first, second) == seeded
    assert torch.equal(gaussian((16,), 1.0), gaussian((16,), 1.0)) == seeded
