"""A detector of two parts: averaged where both can say something, each trained by its own loss."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.models.combined_detector import CombinedDetector
from lavq_core.models.detector import build_detector
from lavq_core.models.resnet import ResNet
from lavq_core.settings import DetectorConfig, DetectorTrainingConfig, PersonalConfig
from lavq_core.signals.description import SIZE, describe
from lavq_core.training.detector_training import (
    LabelledEcgs,
    answers_of,
    detector_loss,
    predict,
    train_detector,
)
from lavq_core.training.personal import personalise
from lavq_core.training.site_data import SiteData

CONFIG = DetectorConfig(kind="combined", width=8, blocks=2, hidden=16)


@pytest.fixture
def model() -> CombinedDetector:
    built = build_detector(CONFIG, 100, seed=1)
    assert isinstance(built, CombinedDetector)
    return built.eval()


@pytest.fixture(scope="module")
def ecgs(sample_database: Database) -> Tensor:
    return sample_database.signals(np.arange(12))


def test_its_logits_are_the_mean_of_both_parts(model: CombinedDetector, ecgs: Tensor) -> None:
    described = torch.from_numpy(describe(ecgs.numpy(), 100))
    expected = (model.resnet(ecgs) + model.perceptron(40.0 * described)) / 2
    torch.testing.assert_close(model(ecgs), expected)
    torch.testing.assert_close(model(ecgs, described), expected)


def test_an_ecg_with_a_blank_lead_is_left_to_the_resnet(model: CombinedDetector, ecgs: Tensor) -> None:
    x = ecgs[:3].clone()
    x[1, 5] = 0.0
    both, waveform = model(x), model.resnet(x)
    torch.testing.assert_close(both[1], waveform[1])
    assert not torch.isclose(both[[0, 2]], waveform[[0, 2]], atol=1e-3).all()


def test_it_has_a_resnet_of_the_same_sizes_and_a_perceptron(model: CombinedDetector) -> None:
    size = sum(weights.numel() for weights in model.parameters())
    alone = sum(weights.numel() for weights in ResNet(CONFIG).parameters())
    assert size == alone + (SIZE + 1) * 16 + (16 + 1) * 5


def test_each_part_learns_by_its_own_loss(model: CombinedDetector, ecgs: Tensor) -> None:
    """The loss is the sum of both parts', and neither gets a gradient through the other's."""
    y, described = (torch.arange(12 * 5).view(12, 5) % 3 == 0).float(), model.describe(ecgs)
    waveform, description = answers_of(model, ecgs, described, torch.arange(12))
    detector_loss(waveform, y, torch.ones(12)).backward()
    assert all(weights.grad is None for weights in model.perceptron.parameters())
    assert all(weights.grad is not None for weights in model.resnet.parameters())
    model.zero_grad(set_to_none=True)
    detector_loss(description, y, torch.ones(12)).backward()
    assert all(weights.grad is None for weights in model.resnet.parameters())
    assert all(weights.grad is not None for weights in model.perceptron.parameters())


def test_edits_are_judged_by_the_part_that_passes_a_gradient_to_the_ecg(model: CombinedDetector, ecgs: Tensor) -> None:
    x = ecgs[:2].clone().requires_grad_(True)
    model.differentiable(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().amax() > 0
    resnet = build_detector(dataclasses.replace(CONFIG, kind="resnet"), 100, seed=1)
    assert resnet.differentiable is resnet


def test_known_and_found_descriptions_train_to_the_same_weights(ecgs: Tensor) -> None:
    y, training = (torch.arange(12 * 5).view(12, 5) % 3 == 0).float(), DetectorTrainingConfig(batch=4)
    trained = []
    for known in (None, torch.from_numpy(describe(ecgs.numpy(), 100))):
        model = build_detector(CONFIG, 100, seed=1)
        data = LabelledEcgs(ecgs, y, torch.ones(12), known)
        train_detector(model, data, training, 100, 2, torch.Generator().manual_seed(0))
        trained.append(model.state_dict())
    for name, weights in trained[0].items():
        torch.testing.assert_close(trained[1][name], weights, msg=name)
    start = build_detector(CONFIG, 100, seed=1).state_dict()
    assert not torch.equal(start["perceptron.1.weight"], trained[0]["perceptron.1.weight"])
    assert not torch.equal(start["resnet.stem.weight"], trained[0]["resnet.stem.weight"])


def test_sets_that_are_put_together_or_taken_apart_keep_their_descriptions(ecgs: Tensor) -> None:
    described = torch.randn(12, SIZE)
    data = LabelledEcgs(ecgs, torch.zeros(12, 5), torch.ones(12), described)
    both = data.take(torch.arange(4)) + data.take(torch.arange(12) > 9)
    assert both.described is not None
    assert torch.equal(both.described, described[[0, 1, 2, 3, 10, 11]])
    assert (data + LabelledEcgs(ecgs, torch.zeros(12, 5), torch.ones(12))).described is None


def test_a_sites_scores_come_from_the_kept_descriptions(sample_database: Database) -> None:
    config = compose(["preset=sample", "detector.kind=combined", "detector.hidden=16"])
    positions = np.arange(20)
    site = SiteData("everybody", sample_database, positions, config)
    model = build_detector(config.detector, 100, seed=0).eval()
    found = predict(model, sample_database.signals(positions)).numpy()
    np.testing.assert_allclose(site.scores(model, positions), found, atol=2e-5)
    assert site.ecgs.described is not None
    assert len(site.ecgs.described) == len(site.ecgs)


def test_one_patients_copy_moves_in_both_parts_last_layers_only(model: CombinedDetector, ecgs: Tensor) -> None:
    y = torch.eye(5)[torch.arange(12) % 5]
    training = DetectorTrainingConfig()
    settings = PersonalConfig(steps=2, lr=1e-2)
    own = personalise(model, LabelledEcgs(ecgs, y, torch.ones(12)), settings, training, 100, seed=0)
    moved = {name for name, value in own.state_dict().items() if not torch.equal(value, model.state_dict()[name])}
    assert any(name.startswith("resnet.head") for name in moved)
    assert {name for name in moved if name.startswith("perceptron")} == {"perceptron.4.weight", "perceptron.4.bias"}
    assert not any(name.startswith(("resnet.stem", "resnet.blocks.0")) for name in moved)


def test_an_ecg_too_short_to_be_described_is_refused(model: CombinedDetector, ecgs: Tensor) -> None:
    with pytest.raises(ValueError, match="199 samples cannot be described: 200 or more"):
        model(ecgs[..., :199])
