"""Augmentation changes what does not matter, each record on its own, and nothing when it is switched off."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lavq_core.settings import DetectorTrainingConfig
from lavq_core.training.augmentation import augment, warp_time

OFF = {"noise": 0.0, "amplitude": 0.0, "shift": 0.0, "wander": 0.0, "lead_dropout": 0.0, "warp": 0.0}
SEEDS = st.integers(0, 2**32 - 1)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def only(**changes: float) -> DetectorTrainingConfig:
    return DetectorTrainingConfig(**{**OFF, **changes})  # type: ignore[arg-type]


def ecgs(count: int = 4, samples: int = 300, seed: int = 0) -> Tensor:
    return torch.randn(count, 8, samples, generator=rng(seed))


@pytest.mark.parametrize(("samples", "rate"), [(1000, 100), (5000, 500), (37, 100)])
def test_a_signal_keeps_its_form_and_the_original_is_left_alone(samples: int, rate: int) -> None:
    x = ecgs(3, samples)
    before = x.clone()
    out = augment(x, DetectorTrainingConfig(), rate, rng(0))
    assert out.shape == x.shape
    assert out.dtype == x.dtype
    assert torch.isfinite(out).all()
    assert not torch.equal(out, x)
    assert torch.equal(x, before)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_switched_off_it_is_the_identity(seed: int) -> None:
    x = ecgs(seed=seed)
    assert torch.equal(augment(x, only(), 100, rng(seed)), x)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_a_shift_is_circular_the_same_in_all_leads_and_within_its_bound(seed: int) -> None:
    x = ecgs(seed=seed)
    out = augment(x, only(shift=0.2), 100, rng(seed))
    for record, moved in zip(x, out, strict=True):
        offsets = [offset for offset in range(-20, 21) if torch.equal(record.roll(offset, dims=-1), moved)]
        assert len(offsets) == 1


def test_shifts_reach_both_ways_and_zero() -> None:
    x = torch.arange(100.0).expand(2000, 8, 100)
    first = augment(x, only(shift=0.03), 100, rng(0))[:, 0, 0]
    assert set(first.tolist()) == {97.0, 98.0, 99.0, 0.0, 1.0, 2.0, 3.0}


@pytest.mark.parametrize("rate", [100, 500])
def test_a_warp_moves_samples_no_farther_than_it_says_and_never_backwards(rate: int) -> None:
    """A ramp shows where each sample came from."""
    T = 10 * rate
    ramp = torch.arange(float(T)).expand(64, 8, T)
    moved = warp_time(ramp, 0.05, rate, rng(0))
    apart = (moved - ramp).abs() / rate  # s
    assert float(apart.max()) <= 0.05 + 1e-4
    assert float(apart.max()) > 0.03
    inner = moved[..., rate:-rate]
    assert float(inner.diff().min()) > 1 - 2 * torch.pi * 0.3 * 0.05 - 1e-2  # at most 9 % faster or slower
    assert torch.equal(moved, moved[:, :1].expand_as(moved))  # all leads together


def test_warps_differ_from_record_to_record() -> None:
    out = augment(torch.arange(500.0).expand(4, 8, 500), only(warp=0.1), 100, rng(0))
    assert len({tuple(row[0, 200:205].tolist()) for row in out}) == 4


def test_a_gain_is_one_number_a_record_within_its_spread() -> None:
    x = ecgs(500)
    gain = augment(x, only(amplitude=0.2), 100, rng(0)) / x
    per_record = gain[:, :1, :1]
    torch.testing.assert_close(gain, per_record.expand_as(gain))
    assert 0.8 <= float(per_record.min()) < 0.85
    assert 1.15 < float(per_record.max()) <= 1.2


def test_wander_is_slow_and_no_larger_than_it_says() -> None:
    added = augment(torch.zeros(50, 8, 1000), only(wander=0.1), 100, rng(0))
    assert float(added.abs().max()) <= 0.1 + 1e-6
    assert float(added.abs().max()) > 0.09
    power = torch.fft.rfft(added - added.mean(-1, keepdim=True)).abs().square().sum((0, 1))
    assert float(power[:7].sum()) > 0.95 * float(power.sum())  # below 0.7 Hz


def test_noise_is_white_and_no_stronger_than_it_says() -> None:
    added = augment(torch.zeros(200, 8, 500), only(noise=0.05), 100, rng(0))
    spread = added.std(dim=(1, 2))
    assert float(spread.max()) < 0.055
    assert float(spread.mean()) == pytest.approx(0.025, abs=0.004)  # uniform from none to all of it
    assert abs(float(torch.corrcoef(torch.stack([added[..., 1:].flatten(), added[..., :-1].flatten()]))[0, 1])) < 0.01


def test_a_blanked_lead_is_silent_and_the_others_are_whole() -> None:
    x = ecgs(500)
    out = augment(x, only(lead_dropout=0.1), 100, rng(0))
    blank = (out == 0).all(dim=-1)
    assert float(blank.float().mean()) == pytest.approx(0.1, abs=0.02)
    assert torch.equal(out[~blank], x[~blank])


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, who=st.integers(0, 3))
def test_a_record_is_augmented_whoever_else_is_in_the_batch(seed: int, who: int) -> None:
    x, others = ecgs(seed=seed), ecgs(seed=seed + 1)
    others[who] = x[who]
    config = DetectorTrainingConfig()
    first, second = augment(x, config, 100, rng(seed)), augment(others, config, 100, rng(seed))
    assert torch.equal(first[who], second[who])


def test_copies_of_a_record_are_augmented_differently() -> None:
    out = augment(ecgs(1).expand(4, -1, -1), DetectorTrainingConfig(), 100, rng(0))
    assert len({tuple(row[0, :5].tolist()) for row in out}) == 4


def test_the_generator_decides_and_nothing_else() -> None:
    x, config = ecgs(), DetectorTrainingConfig()
    torch.manual_seed(1)
    first = augment(x, config, 100, rng(5))
    torch.manual_seed(2)
    assert torch.equal(augment(x, config, 100, rng(5)), first)
    assert not torch.equal(augment(x, config, 100, rng(6)), first)
