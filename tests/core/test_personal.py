"""One patient's detector: near the population's, moved by twins alone, and repeatable."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lavq_core.models.detector import Detector, build_detector
from lavq_core.settings import DetectorConfig, DetectorTrainingConfig, PersonalConfig
from lavq_core.training.detector_training import predict
from lavq_core.training.personal import personal_examples, personalise

CONFIG = PersonalConfig(steps=12, batch=8, lr=5e-3, anchor=0.0)
MI, HYP = 1, 4


@pytest.fixture
def population() -> Detector:
    return build_detector(DetectorConfig(width=8, blocks=2), 100, 0).eval()


@pytest.fixture
def reference() -> torch.Tensor:
    return 0.3 * torch.randn(8, 300, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def twins(reference: torch.Tensor) -> torch.Tensor:
    """The reference with a fast wave in two leads for MI and a slow one in two others for HYP."""
    time, made = torch.arange(300) / 100, reference.repeat(4, 1, 1)
    made[:2, 1:3] += 2.0 * torch.sin(2 * torch.pi * 12 * time)
    made[2:, 5:7] += 2.0 * torch.sin(2 * torch.pi * 2 * time)
    return made


CLASSES = torch.tensor([MI, MI, HYP, HYP])


def tuned(
    population: Detector, reference: torch.Tensor, twins: torch.Tensor, seed: int = 0, **changes: float
) -> Detector:
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    data = personal_examples(reference, twins, CLASSES)
    return personalise(population, data, config, DetectorTrainingConfig(), 100, seed)


def test_examples_are_the_twins_and_as_many_copies_of_the_reference_as_norm(
    reference: torch.Tensor, twins: torch.Tensor
) -> None:
    data = personal_examples(reference, twins, CLASSES)
    assert torch.equal(data.x[:4], twins)
    assert all(torch.equal(copy, reference) for copy in data.x[4:])
    assert data.y.argmax(dim=1).tolist() == [MI, MI, HYP, HYP, 0, 0, 0, 0]
    assert data.y.sum(dim=1).tolist() == [1.0] * 8


def test_it_learns_the_patients_own_signs(population: Detector, reference: torch.Tensor, twins: torch.Tensor) -> None:
    models = (population, tuned(population, reference, twins, steps=30, lr=1e-2))
    before, after = (predict(model, twins) for model in models)
    for own, other, c in ((0, 2, MI), (2, 0, HYP)):
        assert float(after[own, c] - after[other, c]) > float(before[own, c] - before[other, c]) + 0.1


def test_only_the_last_block_and_the_head_move_and_the_population_does_not(
    population: Detector, reference: torch.Tensor, twins: torch.Tensor
) -> None:
    kept = {name: value.clone() for name, value in population.state_dict().items()}
    personal = tuned(population, reference, twins).state_dict()
    moved = {name for name, value in personal.items() if not torch.equal(value, kept[name])}
    assert moved
    assert all(name.startswith(("blocks.1.", "head.")) for name in moved)
    assert all(torch.equal(value, kept[name]) for name, value in population.state_dict().items())


def test_the_anchor_holds(population: Detector, reference: torch.Tensor, twins: torch.Tensor) -> None:
    def distance(anchor: float) -> float:
        personal = tuned(population, reference, twins, steps=20, anchor=anchor).state_dict()
        return sum(float((personal[k] - v).square().sum()) for k, v in population.state_dict().items())

    assert distance(100.0) < 0.5 * distance(0.0)


def test_a_seed_is_repeatable_and_another_differs(
    population: Detector, reference: torch.Tensor, twins: torch.Tensor
) -> None:
    first, again, other = (predict(tuned(population, reference, twins, seed), twins) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_it_trains_on_stretches_as_long_as_the_populations(
    population: Detector, reference: torch.Tensor, twins: torch.Tensor
) -> None:
    lengths = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: lengths.append(inputs[0].shape[-1]) if isinstance(module, Detector) else None
    )
    try:
        data = personal_examples(reference, twins, CLASSES)
        personalise(population, data, CONFIG, DetectorTrainingConfig(crop=1.5), 100, 0)
    finally:
        hook.remove()
    assert lengths == [150] * CONFIG.steps
