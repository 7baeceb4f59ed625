"""Private statistics of codes: a record counts at most one, and the server takes what noise made of it."""

from __future__ import annotations

import pytest
import torch

from lavq_core.data.labels import statement_classes
from lavq_core.models.codebook import code_statistics, quantise
from lavq_core.models.networks import beat_tokens
from lavq_core.settings import Config
from lavq_core.training.guided import class_weights
from lavq_core.training.private_statistics import contributions, private_statistics
from lavq_core.training.site_data import SiteData
from server.validation import _check_statistics
from tests.core.private_separator.making import EASY, of_kind, trainer_of, with_sums


@pytest.mark.parametrize("kind", ["gradient", "sums"])
def test_a_record_counts_at_most_one_in_all_statistics_together(config: Config, site: SiteData, kind: str) -> None:
    config = with_sums(config) if kind == "sums" else config
    trainer = trainer_of(config)
    vectors = contributions(trainer.networks, trainer.codes, of_kind(site.beats, True, 20), config)
    norms = vectors.norm(dim=1)
    assert float(norms.max()) <= 1 + 1e-9
    assert float(norms.min()) > 0.3  # bounds that much less were needed would waste the budget


@pytest.mark.parametrize("kind", ["gradient", "sums"])
def test_without_noise_the_statistics_are_the_patients_shares(config: Config, site: SiteData, kind: str) -> None:
    config = with_sums(config) if kind == "sums" else config
    trainer, data = trainer_of(config), of_kind(site.beats, True, 6)
    found = trainer.networks.separator(data.x, data.covariates, data.valid, data.memory, data.mask)
    _, indices = quantise(found.latents, trainer.codes)
    gate = found.gate > 0.5
    assert bool(gate.any(dim=1).all())
    owner = torch.tensor([0, 0, 1, 2, 3, 4])
    share = torch.tensor([0.5, 0.5, 1, 1, 1, 1])
    of_record = [
        code_statistics(found.latents[i : i + 1], indices[i : i + 1], gate[i : i + 1], config.codebook.size)
        for i in range(6)
    ]
    counts = torch.stack([s["counts"] / s["counts"].sum() for s in of_record])  # (6, K)
    sums = torch.stack([s["sums"] / s["counts"].sum() for s in of_record])  # (6, K, D)
    fresh = private_statistics(trainer.networks, trainer.codes, data, owner, config, EASY, 5.0)
    expected = (counts * share[:, None]).sum(0)
    assert torch.allclose(fresh["counts"], expected, atol=1e-4)
    expected_sums = (sums * share[:, None, None]).sum(0) if kind == "sums" else expected[:, None] * trainer.codes
    assert torch.allclose(fresh["sums"], expected_sums, atol=1e-4)
    said = torch.einsum("n,nc,ns->cs", share, class_weights(data.y), data.statements)
    assert torch.allclose(fresh["requests"], said * torch.from_numpy(statement_classes()), atol=0.5)
    assert float(fresh["prior"].sum()) == pytest.approx(
        float((class_weights(data.y).sum(1) * share).sum() * beat_tokens(config)), rel=1e-4
    )


@pytest.mark.parametrize("kind", ["gradient", "sums"])
@pytest.mark.parametrize("noise", [0.5, 50.0])
def test_the_server_takes_noised_statistics(config: Config, site: SiteData, kind: str, noise: float) -> None:
    config = with_sums(config) if kind == "sums" else config
    trainer, owner = trainer_of(config), site.beat_owners
    fresh = private_statistics(trainer.networks, trainer.codes, site.beats, owner, config, noise, 30.0)
    _check_statistics(fresh, 30)
    again = private_statistics(trainer.networks, trainer.codes, site.beats, owner, config, noise, 30.0)
    assert not torch.equal(fresh["counts"], again["counts"])
