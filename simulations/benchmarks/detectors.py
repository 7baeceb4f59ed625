"""The detector of the preset ``ptbxl``, in training and in use, beside ``resnet1d_wang``."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from lavq_core.models.detector import build_detector
from lavq_core.signals.leads import to_twelve
from lavq_core.training.detector_training import (
    LabelledEcgs,
    descriptions,
    epoch_batches,
    make_optimiser,
    predict,
    take_steps,
)
from simulations.benchmarks.harness import Pair, Way
from simulations.benchmarks.setting import Setting, generator
from simulations.benchmarks.wang import WangResNet

_BATCH = 32


def training(setting: Setting) -> Pair:
    """Training as the preset does it: whole ECGs, augmentation, AdamW; descriptions are known, as at a site."""
    config = setting.config()
    recipe = replace(config.detector_training, batch=_BATCH)
    data, few = _labelled(setting, setting.many(256)), _labelled(setting, setting.many(64))
    model = build_detector(config.detector, config.data.sampling_rate, 0)
    data.described = descriptions(model, data)
    optimiser = make_optimiser(model, recipe)
    wang, twelve = WangResNet(), to_twelve(few.x)
    plain = torch.optim.AdamW(wang.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)

    def ours() -> Tensor:
        rows = epoch_batches(len(data), _BATCH, 1, generator())
        return take_steps(model, data, rows, optimiser, recipe, config.data.sampling_rate, seed=0)

    def resnet1d_wang() -> Tensor:
        wang.train()
        losses = []
        for rows in epoch_batches(len(few), _BATCH, 1, generator()):
            loss = F.binary_cross_entropy_with_logits(wang(twelve[rows]), few.y[rows])
            plain.zero_grad(set_to_none=True)
            loss.backward()
            plain.step()
            losses.append(loss.detach())
        return torch.stack(losses)

    return Pair(Way(ours, len(data)), Way(resnet1d_wang, len(few)), _both_learn)


def _both_learn(ours: Tensor, reference: Tensor) -> bool:
    """Two networks cannot give the same; both must give losses."""
    return bool(len(ours) and len(reference) and torch.isfinite(torch.cat([ours, reference])).all())


def _labelled(setting: Setting, count: int) -> LabelledEcgs:
    labels = torch.from_numpy(setting.sample.labels)[torch.arange(count) % len(setting.sample)]
    return LabelledEcgs(setting.ecgs(count), labels, torch.ones(count))


def inference(setting: Setting) -> Pair:
    """Scores of whole records, 256 at a time."""
    config = setting.config()
    model, wang = build_detector(config.detector, config.data.sampling_rate, 0).eval(), WangResNet().eval()
    x = setting.ecgs(setting.many(512))
    few = to_twelve(x[: setting.many(128)])
    return Pair(
        Way(lambda: predict(model, x), len(x)),
        Way(lambda: predict(wang, few), len(few)),
        lambda mine, other: mine.shape[1] == other.shape[1] and bool(torch.isfinite(mine).all()),
    )


def one_by_one(setting: Setting) -> Pair:
    """Scores of many records in batches; the reference asks for one record at a time."""
    config = setting.config()
    model = build_detector(config.detector, config.data.sampling_rate, 0).eval()
    x = setting.ecgs(setting.many(512))
    few = x[: setting.many(128)]
    return Pair(
        Way(lambda: predict(model, x), len(x)),
        Way(lambda: predict(model, few, batch=1), len(few)),
        lambda mine, other: torch.allclose(mine[: len(other)], other, atol=1e-4),
    )
