"""Private gradients: those of a loop over patients, each patient clipped as a whole, noise also where nobody is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lavq_core.models.blocks import Attention, BeatStem, ReportAttention, TokenBlock, group_norm
from lavq_core.models.detector import build_detector
from lavq_core.privacy.item_convolution import QuickConvolutions
from lavq_core.privacy.patient_gradients import Items, Loss, Weights, clipped_gradients, noisy_mean
from lavq_core.settings import DetectorConfig

B, C, T = 5, 6, 24
EVERYTHING = 1e9  # a clipping norm that clips nothing


class _Symbols(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.place = nn.Embedding(7, C), nn.Parameter(torch.randn(T, C))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.embedding((x[:, 0].abs() * 10).long() % 7) + self.place)


class _Tokens(nn.Module):
    """Puts width last, as attention, norms and linear layers want it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.transpose(1, 2))


class _Report(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = ReportAttention(C, C, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.transpose(1, 2)
        return self.attention(tokens, tokens[:, :4], tokens[:, :4, 0] > 0)


class _Self(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention(C, C, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x.transpose(1, 2), x.transpose(1, 2))


class _Stem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = BeatStem(C, 8, 4, T // 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.stem(x, x[:, :3, 0])


MODELS: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: nn.Conv1d(C, 4, 5, padding=2),
    "strided convolution that leaves samples over": lambda: nn.Conv1d(C, 4, 5, stride=3, padding=1),
    "dilated convolution": lambda: nn.Conv1d(C, 4, 3, padding=4, dilation=4),
    "grouped convolution": lambda: nn.Conv1d(C, 6, 3, groups=3),
    "two convolutions": lambda: nn.Sequential(nn.Conv1d(C, 4, 7, stride=2), nn.GELU(), nn.Conv1d(4, 3, 3, padding=1)),
    "transposed convolution": lambda: nn.ConvTranspose1d(C, 4, 12, stride=4, padding=4),
    "linear and GELU": lambda: _Tokens(nn.Linear(C, 8), nn.GELU(), nn.Linear(8, 3)),
    "GroupNorm": lambda: nn.Sequential(nn.Conv1d(C, 8, 1), group_norm(8)),
    "LayerNorm": lambda: _Tokens(nn.LayerNorm(C), nn.Linear(C, 3)),
    "attention": _Self,
    "report attention": _Report,
    "embedding and parameter": _Symbols,
    "token block": lambda: TokenBlock(C, dilation=2),
    "stem of a beat": _Stem,
    "ResNet detector": lambda: build_detector(DetectorConfig(width=8, blocks=2), 100, 0).eval(),
}


def batch_for(name: str) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(B, 8 if "ResNet" in name else C, 200 if "ResNet" in name else T)


def loss_of(model: nn.Module) -> Loss:
    def loss(weights: Weights, item: Items) -> Tensor:
        return functional_call(model, dict(weights), (item["x"].unsqueeze(0),)).square().mean()

    return loss


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters())


def looped(model: nn.Module, x: Tensor, owner: Tensor, clip: float) -> dict[str, Tensor]:
    """One patient at a time, by plain backward, in float64 sums."""
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in model.named_parameters()}
    for patient in owner.unique():
        rows = (owner == patient).nonzero().flatten()
        model.zero_grad()
        torch.stack([model(x[row : row + 1]).square().mean() for row in rows]).mean().backward()
        found = {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}
        norm = torch.cat([g.flatten() for g in found.values()]).norm()
        for name, g in found.items():
            total[name] += g * min(1.0, clip / float(norm))
    return total


def furthest(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest distance of two gradients, over the largest number in them."""
    scale = max(float(value.abs().max()) for value in b.values())
    return max(float((a[name] - b[name]).abs().max()) for name in b) / max(1.0, scale)


def length(gradient: dict[str, Tensor]) -> float:
    return float(torch.cat([value.flatten() for value in gradient.values()]).norm())


@pytest.mark.parametrize("name", MODELS)
def test_gradients_equal_those_of_a_loop_over_patients(name: str) -> None:
    torch.manual_seed(0)
    model, x, owner = MODELS[name](), batch_for(name), torch.tensor([3, 1, 3, 7, 3])
    for clip in (EVERYTHING, 0.05):
        found = clipped_gradients(loss_of(model), weights_of(model), {"x": x}, owner, clip, at_once=2)
        assert furthest(found, looped(model, x, owner, clip)) < (1e-6 if clip == EVERYTHING else 2e-6)


@pytest.mark.parametrize(("stride", "padding", "dilation", "samples"), [(1, 0, 1, 24), (3, 2, 1, 25), (2, 6, 3, 31)])
def test_the_quick_convolution_is_the_plain_one(stride: int, padding: int, dilation: int, samples: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv1d(C, 4, 5, stride, padding, dilation)
    x = torch.randn(B, C, samples, requires_grad=True)
    plain = torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
    with QuickConvolutions():
        y = layer(x)
    assert "_Convolution" in str(y.grad_fn.next_functions)  # it was taken
    quick = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])
    for a, b in zip(plain, quick, strict=True):
        assert torch.allclose(a, b, atol=1e-4, rtol=1e-5)


def test_removing_a_patient_of_many_records_changes_the_sum_by_no_more_than_c() -> None:
    torch.manual_seed(0)
    model = MODELS["stem of a beat"]()
    x, owner = 10 * torch.randn(12, C, T), torch.tensor([0, 0, 0, 0, 0, 0, 0, 1, 2, 2, 3, 4])
    loss, weights, clip = loss_of(model), weights_of(model), 0.3
    whole = clipped_gradients(loss, weights, {"x": x}, owner, clip)
    for patient in range(5):
        rest = owner != patient
        without = clipped_gradients(loss, weights, {"x": x[rest]}, owner[rest], clip)
        change = length({name: whole[name] - without[name] for name in whole})
        assert 0.9 * clip < change <= clip


def test_a_patient_entered_as_two_would_change_the_sum_by_more_than_c() -> None:
    """What the owners are for: without them the same records break the bound."""
    torch.manual_seed(0)
    model, clip = MODELS["convolution"](), 0.1
    x = torch.randn(1, C, T).expand(2, -1, -1)
    loss, weights = loss_of(model), weights_of(model)
    assert length(clipped_gradients(loss, weights, {"x": x}, torch.tensor([0, 1]), clip)) > 1.9 * clip
    assert length(clipped_gradients(loss, weights, {"x": x}, torch.tensor([4, 4]), clip)) <= clip


def test_how_many_items_are_held_at_a_time_changes_nothing() -> None:
    model, x, owner = MODELS["token block"](), batch_for(""), torch.tensor([0, 1, 1, 2, 3])
    sums = [
        clipped_gradients(loss_of(model), weights_of(model), {"x": x}, owner, 0.1, at_once=number) for number in (1, 32)
    ]
    assert furthest(*sums) < 1e-6


def test_a_patient_without_a_finite_gradient_takes_no_part() -> None:
    model, x = MODELS["convolution"](), batch_for("")
    broken = x.clone()
    broken[2] = float("inf")
    owner, rest = torch.arange(B), torch.tensor([0, 1, 3, 4])
    loss, weights = loss_of(model), weights_of(model)
    found = clipped_gradients(loss, weights, {"x": broken}, owner, 0.1)
    assert furthest(found, clipped_gradients(loss, weights, {"x": x[rest]}, owner[rest], 0.1)) < 1e-6


def test_a_step_without_patients_is_released_with_its_noise() -> None:
    model = MODELS["two convolutions"]()
    none = {"x": torch.zeros(0, C, T)}
    total = clipped_gradients(loss_of(model), weights_of(model), none, torch.zeros(0, dtype=torch.int64), 2.0)
    assert length(total) == 0.0
    drawn = torch.cat([
        value.flatten() for _ in range(60) for value in noisy_mean(total, 2.0, 3.0, divisor=10.0).values()
    ])  # fmt: skip
    assert float(drawn.std()) == pytest.approx(2.0 * 3.0 / 10.0, rel=0.05)
