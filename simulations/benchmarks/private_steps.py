"""Steps that clip every patient's gradient, beside plain steps of the same model and beside Opacus."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from lavq_core.models.codebook import initial_codebook
from lavq_core.models.detector import build_detector
from lavq_core.models.networks import beat_tokens, make_networks
from lavq_core.privacy.clipping import clip_factors
from lavq_core.privacy.patient_gradients import Items, clipped_gradients
from lavq_core.settings_check import NOT_PRIVATE
from lavq_core.training.private_separator import PrivateSeparatorTrainer
from simulations.benchmarks.harness import Pair, Way
from simulations.benchmarks.setting import Setting, generator

_CLIP = 1.0
_BATCH = 64

Gradients = Mapping[str, Tensor]


def resnet_plain(setting: Setting) -> Pair:
    """Clipped gradients of a residual detector's batch, a patient an item; the reference is the plain gradient."""
    model, x, y = _resnet(setting)

    def plain() -> dict[str, Tensor]:
        model.zero_grad(set_to_none=True)
        F.binary_cross_entropy_with_logits(model(x), y).backward()
        return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}

    return Pair(Way(lambda: _clipped(model, x, y), len(x)), Way(plain, len(x)), _same_names)


def resnet_opacus(setting: Setting) -> Pair:
    """The same; the reference is Opacus with its hooks: gradients of every record, clipped and summed."""
    model, x, y = _resnet(setting)
    hooked = GradSampleModule(_resnet(setting)[0], loss_reduction="sum")

    def opacus_hooks() -> dict[str, Tensor]:
        hooked.zero_grad(set_to_none=True)
        F.binary_cross_entropy_with_logits(hooked(x), y, reduction="none").mean(1).sum().backward()
        found = {name.removeprefix("_module."): value.grad_sample for name, value in hooked.named_parameters()}
        norms = torch.stack([value.flatten(1).norm(dim=1) for value in found.values()]).norm(dim=0)
        factors = clip_factors(norms, _CLIP)  # (n,)
        return {name: torch.tensordot(factors, value, dims=1) for name, value in found.items()}

    return Pair(Way(lambda: _clipped(model, x, y), len(x)), Way(opacus_hooks, len(x)), _same_gradients)


def _resnet(setting: Setting) -> tuple[nn.Module, Tensor, Tensor]:
    # Without dropout, or no two ways would give the same; in training, as Opacus asks.
    config, count = setting.config("detector.kind=resnet", "detector.dropout=0"), setting.many(_BATCH)
    model = build_detector(config.detector, config.data.sampling_rate, 0).train()
    labels = torch.from_numpy(setting.sample.labels)[torch.arange(count) % len(setting.sample)]
    return model, setting.ecgs(count), labels


def _clipped(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    def loss(weights: Mapping[str, Tensor], item: Items) -> Tensor:
        logits = functional_call(model, dict(weights), item["x"][None])
        return F.binary_cross_entropy_with_logits(logits[0], item["y"])

    weights = dict(model.named_parameters())
    return clipped_gradients(loss, weights, {"x": x, "y": y}, torch.arange(len(x)), _CLIP)


def separator_plain(setting: Setting) -> Pair:
    """Clipped gradients of a private step of separator, editor and prior network; the reference is the plain gradient.

    Both take the losses of abnormal records, each of another patient.
    """
    config = setting.config(*_PRIVATE)
    codebook = initial_codebook(config.codebook, beat_tokens(config), 0)
    networks = make_networks(config, 0)
    trainer = PrivateSeparatorTrainer(networks, codebook, None, config, generator(), 1.0, 100.0, total=1000)
    data = setting.site.beats
    rows = data.abnormal()[: setting.many(_BATCH)]
    items, loss = trainer.items(data.take(rows), abnormal=True), trainer.loss(abnormal=True)
    weights = dict(trainer.losses.named_parameters())

    def ours() -> dict[str, Tensor]:
        return clipped_gradients(loss, weights, items, torch.arange(len(rows)), _CLIP)

    def plain() -> dict[str, Tensor]:
        with sdpa_kernel(SDPBackend.MATH):  # the fused attention has no rule for vmap and falls back to a loop
            losses = vmap(loss, in_dims=(None, 0), randomness="different")(weights, items)  # (n,)
        found = torch.autograd.grad(losses.mean(), list(weights.values()), allow_unused=True)
        return {name: value for name, value in zip(weights, found, strict=True) if value is not None}

    def same(mine: Gradients, other: Gradients) -> bool:
        return set(other) <= set(mine) and _same_names({name: mine[name] for name in other}, other)

    return Pair(Way(ours, len(rows)), Way(plain, len(rows)), same)


_PRIVATE = (
    "detector.kind=features", "detector_training.steps=40", "detector_training.epochs=40", "privacy.epsilon=8",
    "codebook.ema=0", "audit.enabled=false",
    *(f"separator_training.loss.{name}=0" for name in NOT_PRIVATE),
)  # fmt: skip


def _same_names(ours: Gradients, plain: Gradients) -> bool:
    """Clipped and plain gradients differ; they are of the same weights."""
    shapes = [{name: value.shape for name, value in found.items()} for found in (ours, plain)]
    return shapes[0] == shapes[1] and all(bool(value.isfinite().all()) for value in ours.values())


def _same_gradients(ours: Gradients, other: Gradients) -> bool:
    size = max(float(value.abs().max()) for value in other.values())
    return set(ours) == set(other) and all(
        torch.allclose(ours[name].float(), other[name].float(), atol=1e-4 * size, rtol=1e-3) for name in other
    )
