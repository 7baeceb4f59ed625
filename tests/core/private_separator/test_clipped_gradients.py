"""Private training of separator and codebook: what a patient adds to a step is bounded, and noised."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lavq_core.privacy.patient_gradients import clipped_gradients
from lavq_core.settings import Config
from lavq_core.training.site_data import SiteData
from tests.core.private_separator.making import CLIP, apart, length, of_kind, rows_of, trainer_of, with_sums


@pytest.mark.parametrize("abnormal", [True, False])
def test_a_patient_counts_at_most_c_and_the_same_whoever_else_takes_part(
    config: Config, site: SiteData, abnormal: bool
) -> None:
    trainer = trainer_of(config)
    items, weights = trainer.items(of_kind(site.beats, abnormal), abnormal), dict(trainer.losses.named_parameters())

    def summed(rows: list[int]) -> dict[str, Tensor]:
        owner = torch.tensor(rows)
        return clipped_gradients(trainer.loss(abnormal), weights, rows_of(items, rows), owner, CLIP)

    alone, everybody = summed([0]), summed([0, 1, 2])
    assert 0.99 * CLIP < length(alone) <= CLIP
    assert length(apart(apart(everybody, summed([1, 2])), alone)) < 1e-6


@pytest.mark.parametrize("abnormal", [True, False])
def test_gradients_equal_those_of_plain_backward(config: Config, site: SiteData, abnormal: bool) -> None:
    trainer = trainer_of(config)
    items, weights = trainer.items(of_kind(site.beats, abnormal), abnormal), dict(trainer.losses.named_parameters())
    owner = torch.arange(len(items["x"]))
    found = clipped_gradients(trainer.loss(abnormal), weights, items, owner, 1e9)
    for row in owner.tolist():
        trainer.losses({name: value[row] for name, value in items.items()}, abnormal).backward()
    for name, parameter in trainer.losses.named_parameters():
        plain = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert torch.allclose(found[name].float(), plain, rtol=1e-4, atol=2e-5), name


def test_every_network_and_the_codes_learn_from_one_kind_of_patient_or_the_other(
    config: Config, site: SiteData
) -> None:
    trainer = trainer_of(config)
    rows = torch.cat([site.beats.abnormal()[:3], site.beats.norm_only()[:3]])
    total = trainer.clipped_sum(site.beats, torch.arange(len(site.beats)), rows)
    for part in ("networks.separator", "networks.editor", "networks.prior", "codes"):
        assert any(float(value.abs().max()) > 0 for name, value in total.items() if name.startswith(part))


def test_a_patient_with_two_records_takes_part_with_one_of_them(config: Config, site: SiteData) -> None:
    trainer, owner = trainer_of(config), torch.arange(len(site.beats)) // 2
    for _ in range(5):
        rows = trainer._one_record_each(owner, owner.unique())
        assert owner[rows].tolist() == owner.unique().tolist()


def test_a_patient_entered_twice_in_one_step_is_refused(config: Config, site: SiteData) -> None:
    trainer = trainer_of(config)
    with pytest.raises(ValueError, match="one record only"):
        trainer.step(site.beats, torch.zeros(len(site.beats), dtype=torch.int64), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="one record only"):
        trainer.step(site.beats, torch.arange(len(site.beats)), torch.tensor([2, 2]))


def test_a_step_without_patients_adds_noise_and_counts(config: Config, site: SiteData) -> None:
    trainer, none = trainer_of(config), torch.zeros(0, dtype=torch.int64)
    before = {name: value.clone() for name, value in trainer.losses.named_parameters()}
    trainer.step(site.beats, torch.arange(len(site.beats)), none)
    assert all(not torch.equal(value, before[name]) for name, value in trainer.losses.named_parameters())
    assert {float(value) for name, value in trainer.keep().items() if name.endswith(".step")} == {1.0}


def test_codes_learn_in_the_clip_or_stay_as_broadcast(config: Config, site: SiteData) -> None:
    owner, rows = torch.arange(len(site.beats)), site.beats.abnormal()[:3]
    learned, fixed = trainer_of(config), trainer_of(with_sums(config))
    start = learned.codes
    for trainer in (learned, fixed):
        trainer.step(site.beats, owner, rows)
    assert torch.allclose(learned.codes.norm(dim=1), torch.ones(len(start)))
    assert not torch.allclose(learned.codes, start, atol=1e-5)
    assert torch.equal(fixed.codes, start)
    assert "codes" not in dict(fixed.losses.named_parameters())
