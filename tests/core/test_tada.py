"""Adversarial time warps: differentiable, bounded, harder than chance, and nothing but time is changed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.errors import ConfigError
from lavq_core.models.detector import build_detector
from lavq_core.settings import Config, DetectorConfig, DetectorTrainingConfig
from lavq_core.training.detector_training import LabelledEcgs, make_optimiser, take_steps
from lavq_core.training.tada import harden, warp_by_phase


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def detector() -> torch.nn.Module:
    return build_detector(DetectorConfig(width=8, blocks=2), 100, seed=0)


@pytest.fixture(scope="module")
def ecgs(sample_database: Database) -> Tensor:
    return sample_database.signals(range(8))  # (8, 8, 1000)


@pytest.mark.parametrize(("samples", "rate"), [(1000, 100), (250, 100), (37, 100), (5000, 500)])
def test_without_shifts_a_record_stays_itself(samples: int, rate: int) -> None:
    x = torch.randn(2, 8, samples, generator=rng())
    torch.testing.assert_close(warp_by_phase(x, torch.zeros(2, 4), rate), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rate", [100, 500])
def test_the_same_shift_everywhere_moves_everything_later_by_it(rate: int) -> None:
    time = torch.arange(10 * rate) / rate
    wave = torch.sin(2 * torch.pi * 1.3 * time).expand(1, 8, -1)
    moved = warp_by_phase(wave, torch.full((1, 11), 0.033), rate)  # no whole number of samples
    expected = torch.sin(2 * torch.pi * 1.3 * (time - 0.033)).expand(1, 8, -1)
    torch.testing.assert_close(moved[..., rate:-rate], expected[..., rate:-rate], atol=5e-3, rtol=0)


@pytest.mark.parametrize("rate", [100, 500])
def test_no_sample_comes_from_farther_than_the_bound_and_none_out_of_turn(rate: int) -> None:
    """A ramp shows where each sample came from; neighbouring knots pull against each other as hard as they may."""
    T, bound = 10 * rate, 0.05
    ramp = (torch.arange(T) / rate).expand(1, 8, T)
    for pulls in ([1.0, -1.0] * 6, [1.0] * 12, [-1.0] * 12):
        moved = warp_by_phase(ramp, bound * torch.tensor([pulls]), rate)
        apart = (moved - ramp).abs()
        assert float(apart.max()) <= 1.02 * bound
        assert float(apart.max()) > 0.8 * bound
        assert float(moved[..., rate // 2 : -rate // 2].diff().min()) > 0
        assert torch.allclose(moved, moved[:, :1].expand_as(moved)), "leads move together"


def test_a_constant_stays_and_a_heartbeat_keeps_its_height(ecgs: Tensor) -> None:
    pulls = 0.05 * torch.tensor([[1.0, -1.0] * 6])
    level = torch.full((1, 8, 1000), 0.7)
    torch.testing.assert_close(warp_by_phase(level, pulls, 100), level, atol=1e-4, rtol=0)
    moved = warp_by_phase(ecgs, pulls.expand(len(ecgs), -1), 100)
    heights = moved.abs().amax(dim=-1) / ecgs.abs().amax(dim=-1)
    assert 0.85 < float(heights.median()) < 1.1


def test_the_gradient_with_respect_to_shifts_is_right(ecgs: Tensor) -> None:
    """Against finite differences, in double precision."""
    x = ecgs[:1, :, :120].double()
    shifts = torch.tensor([[0.01, -0.0213, 0.015]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: warp_by_phase(x, s, 100)[:, :2, ::10], (shifts,), eps=1e-6, atol=1e-4)


def test_every_second_record_gets_harder_and_the_others_are_left_alone(ecgs: Tensor) -> None:
    model, y = detector(), torch.zeros(8, 5)
    y[:, 0] = 1.0
    before = ecgs.clone()
    hard = harden(model, ecgs, y, 0.05, 100, rng())
    assert torch.equal(ecgs, before)
    assert hard.shape == ecgs.shape
    assert torch.equal(hard[1::2], ecgs[1::2])
    assert not hard.requires_grad


def test_a_warp_is_harder_than_the_random_one_that_it_starts_from(ecgs: Tensor) -> None:
    model, y = detector().eval(), torch.zeros(8, 5)
    y[:, 0] = 1.0

    def loss(x: Tensor) -> Tensor:
        with torch.no_grad():
            return F.binary_cross_entropy_with_logits(model(x), y[::2], reduction="none").mean(dim=1)

    gains = []
    for seed in range(10):
        start = 0.05 * (2.0 * torch.rand(4, 11, generator=rng(seed)) - 1.0)
        hard = harden(model, ecgs, y, 0.05, 100, rng(seed))
        gains.append(loss(hard[::2]) - loss(warp_by_phase(ecgs[::2], start, 100)))
    gain = torch.cat(gains)
    assert float(gain.mean()) > 3.0 * float(gain.std()) / len(gain) ** 0.5


def test_the_search_leaves_the_detector_as_it_was(ecgs: Tensor) -> None:
    model = detector().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    harden(model, ecgs, torch.zeros(8, 5), 0.05, 100, rng())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


def test_training_uses_it_where_it_is_switched_on_and_is_repeatable(ecgs: Tensor) -> None:
    def trained(tada: float) -> Tensor:
        model = detector()
        config = DetectorTrainingConfig(tada=tada)
        data = LabelledEcgs(ecgs, (torch.arange(40).view(8, 5) % 3 == 0).float(), torch.ones(8))
        batches = [torch.arange(8)] * 3
        losses = take_steps(model, data, batches, make_optimiser(model, config), config, 100, seed=1)
        assert torch.isfinite(losses).all()
        return torch.cat([weight.detach().flatten() for weight in model.parameters()])

    off, on, again = trained(0.0), trained(0.05), trained(0.05)
    assert not torch.equal(off, on)
    assert torch.equal(on, again)


def test_it_is_off_unless_asked_for_and_bounded() -> None:
    assert Config().detector_training.tada == 0.0
    assert compose(["detector_training.tada=0.05"]).detector_training.tada == 0.05
    with pytest.raises(ConfigError, match=r"tada must lie between 0 and 0\.2"):
        compose(["detector_training.tada=1"])
