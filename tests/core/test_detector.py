"""The detector: ECGs of any length, weights from the seed alone, nothing fed by data but its weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.models.detector import Detector, build_detector
from lavq_core.models.editor import Editor
from lavq_core.models.resnet import ResNet
from lavq_core.models.separator import Separator
from lavq_core.settings import CodebookConfig, Config, DetectorConfig, SeparatorConfig
from lavq_core.training.detector_training import predict

CONFIG = DetectorConfig(width=8, blocks=2)


def ecgs(count: int = 3, samples: int = 500, seed: int = 0) -> Tensor:
    return 0.5 * torch.randn(count, 8, samples, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def detector() -> Detector:
    return build_detector(CONFIG, 100, seed=0).eval()


@pytest.mark.parametrize("samples", [100, 499, 1000, 1234])
def test_any_length_gives_one_score_a_superclass(detector: Detector, samples: int) -> None:
    assert detector(ecgs(2, samples)).shape == (2, len(SUPERCLASSES))


@pytest.mark.parametrize(("kernel", "blocks"), [(3, 1), (7, 4), (9, 5)])
def test_any_size_builds(kernel: int, blocks: int) -> None:
    detector = build_detector(DetectorConfig(width=8, kernel=kernel, blocks=blocks), 100, 0)
    assert torch.isfinite(detector(ecgs())).all()


def test_500_hz_is_brought_to_the_time_scale_of_100_hz() -> None:
    """What the blocks see: the stem takes as many steps in a second."""
    slow, fast = build_detector(CONFIG, 100, 0), build_detector(CONFIG, 500, 0)
    assert fast(ecgs(2, 5000)).shape == (2, 5)
    assert fast.stem(ecgs(1, 5000)).shape == slow.stem(ecgs(1, 1000)).shape


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build_detector(CONFIG, 100, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)  # nobody else's numbers change
    torch.manual_seed(2)
    again, other = (build_detector(CONFIG, 100, seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["stem.weight"], other["stem.weight"])


def test_every_weight_takes_part(detector: Detector) -> None:
    detector(ecgs()).square().sum().backward()
    for name, weight in detector.named_parameters():
        assert weight.grad is not None, name
        assert float(weight.grad.abs().max()) > 0, name


def test_a_score_does_not_depend_on_the_other_patients(detector: Detector) -> None:
    x = ecgs(4)
    alone = torch.cat([detector(x[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(detector(x), alone, rtol=1e-4, atol=1e-5)


def test_every_lead_is_read(detector: Detector) -> None:
    x = ecgs(1)
    for lead in range(8):
        changed = x.clone()
        changed[:, lead] += 1.0
        assert not torch.allclose(detector(x), detector(changed))


MODELS: list[Callable[[], nn.Module]] = [
    lambda: ResNet(Config().detector),
    lambda: Separator(SeparatorConfig(), CodebookConfig(), 24, 48),
    lambda: Editor(SeparatorConfig(), CodebookConfig(), 24),
]


@pytest.mark.parametrize("make", MODELS, ids=["detector", "separator", "editor"])
def test_no_model_has_a_buffer_that_data_could_feed(make: Callable[[], nn.Module]) -> None:
    """Running statistics would leave a site un-noised, and an average of integer counters means nothing."""
    model = make()
    assert dict(model.named_buffers()) == {}
    assert not any("BatchNorm" in type(part).__name__ for part in model.modules())
    assert all(value.dtype == torch.float32 for value in model.state_dict().values())


@pytest.mark.parametrize("make", MODELS, ids=["detector", "separator", "editor"])
def test_no_convolution_pads_other_than_with_zeros(make: Callable[[], nn.Module]) -> None:
    """Per-sample gradients of other padding modes are computed wrongly by Opacus 1.6."""
    convolutions = [part for part in make().modules() if isinstance(part, nn.Conv1d | nn.ConvTranspose1d)]
    assert convolutions
    assert {part.padding_mode for part in convolutions} == {"zeros"}


# --- use -------------------------------------------------------------------------------------------------------------


def test_predictions_are_probabilities_in_any_batch_size(detector: Detector) -> None:
    x = ecgs(5)
    with torch.no_grad():
        expected = torch.sigmoid(detector(x))
    for batch in (1, 2, 256):
        found = predict(detector, x, batch)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_predicting_uses_no_dropout_and_keeps_the_models_mode(detector: Detector) -> None:
    x = ecgs(5)
    expected = predict(detector, x)
    detector.train()
    assert torch.equal(predict(detector, x), expected)
    assert detector.training


def test_nobody_to_predict_for(detector: Detector) -> None:
    assert predict(detector, torch.zeros(0, 8, 1000)).shape == (0, 5)
