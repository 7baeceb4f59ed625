"""Training and use of the detector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lavq_core.models.combined_detector import CombinedDetector
from lavq_core.models.detector import Detector
from lavq_core.settings import DetectorTrainingConfig
from lavq_core.training.augmentation import augment, random_stretch
from lavq_core.training.device import mixed_precision
from lavq_core.training.tada import harden

BETAS = (0.9, 0.999)
"""How much AdamW's moments keep a step."""


@dataclass
class LabelledEcgs:
    """ECGs to train on."""

    x: Tensor  # (n, 8, T) mV
    y: Tensor  # (n, 5) 0 or 1
    weight: Tensor  # (n,) in the loss; 1 for a real record
    described: Tensor | None = None  # (n, SIZE) for a combined detector; None: it describes them when it is trained

    def __add__(self, other: LabelledEcgs) -> LabelledEcgs:
        """Put two sets together; descriptions are known where both sets' are."""
        x, y, weight = (torch.cat(pair) for pair in ((self.x, other.x), (self.y, other.y), (self.weight, other.weight)))
        if self.described is None or other.described is None:
            return LabelledEcgs(x, y, weight)
        return LabelledEcgs(x, y, weight, torch.cat([self.described, other.described]))

    def take(self, rows: Tensor) -> LabelledEcgs:
        """Some of them: indices, or a mask ``(n,)``."""
        described = None if self.described is None else self.described[rows]
        return LabelledEcgs(self.x[rows], self.y[rows], self.weight[rows], described)

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Stretch:
    """The part of a whole training that one call covers, both in 0..1: round 3 of 8 is ``Stretch(2 / 8, 3 / 8)``."""

    start: float = 0.0
    end: float = 1.0


def learning_rate(config: DetectorTrainingConfig, progress: float) -> float:
    """Linear warm-up, then a cosine or a line to zero, or the peak; ``progress`` in 0..1 of the whole training."""
    if progress < config.warmup:
        return config.lr * (progress + 1e-3) / (config.warmup + 1e-3)
    since = (progress - config.warmup) / (1.0 - config.warmup)
    falling = {"cosine": 0.5 * (1.0 + math.cos(math.pi * since)), "linear": 1.0 - since, "constant": 1.0}
    return config.lr * falling[config.schedule]


def detector_loss(logits: Tensor, y: Tensor, weight: Tensor, positive: Tensor | None = None) -> Tensor:
    """Weighted mean binary cross-entropy; logits, y ``(B, 5)``, weight ``(B,)``, positive ``(5,)`` or None: 1 each."""
    per_class = F.binary_cross_entropy_with_logits(logits, y, reduction="none", pos_weight=positive)  # (B, 5)
    return (per_class.mean(dim=1) * weight).sum() / weight.sum()


def weight_average(model: nn.Module, memory: float, steps: int) -> AveragedModel:
    """An exponential running mean of a model's weights (Polyak and Juditsky 1992; decay as in Tarvainen 2017).

    Its memory is a share of this call's steps and not a fixed number of them: a hospital with few records then averages
    the same part of its training as one with many, and none keeps the weights that it started from.
    """
    decay = 1.0 - 1.0 / max(1.0, memory * steps)
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


def make_optimiser(model: nn.Module, config: DetectorTrainingConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) over all weights, its moments at zero."""
    return torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=BETAS, weight_decay=config.weight_decay, fused=True
    )


def train_detector(
    model: nn.Module,
    data: LabelledEcgs,
    config: DetectorTrainingConfig,
    sampling_rate: int,
    epochs: int,
    generator: torch.Generator,
    stretch: Stretch = Stretch(),
) -> float:
    """Train in place for some epochs with an optimiser of its own; the mean loss of the last one.

    Args:
        model: on its device.
        data: any number of records; the last, smaller batch of an epoch counts too.
        config: batch, rates, weights and augmentation; with ``averaging`` the model ends as the mean of its weights.
        sampling_rate: Hz.
        epochs: passes over ``data``.
        generator: a CPU generator; the same state gives the same training.
        stretch: the part of the learning-rate schedule that this call covers.
    """
    seed = draw_seed(generator)
    batches = epoch_batches(len(data), config.batch, epochs, generator)
    optimiser = make_optimiser(model, config)
    losses = take_steps(model, data, batches, optimiser, config, sampling_rate, seed, stretch)
    return float(losses[-math.ceil(len(data) / config.batch) :].mean()) if len(losses) else math.nan


def draw_seed(generator: torch.Generator) -> int:
    """Draw the seed of one call of ``take_steps``."""
    return int(torch.randint(2**62, (), generator=generator))


def epoch_batches(records: int, batch: int, epochs: int, generator: torch.Generator) -> list[Tensor]:
    """Deal all records out to batches, once an epoch: rows (int64) of each step."""
    return [rows for _ in range(epochs) for rows in torch.randperm(records, generator=generator).split(batch)]


def take_steps(
    model: nn.Module,
    data: LabelledEcgs,
    batches: Sequence[Tensor],
    optimiser: torch.optim.Optimizer,
    config: DetectorTrainingConfig,
    sampling_rate: int,
    seed: int,
    stretch: Stretch = Stretch(),
    proximal: float = 0.0,
) -> Tensor:
    """Train in place, one step a batch; the loss of every step ``(steps,)`` on the CPU.

    Args:
        model: on its device.
        data: what the batches index.
        batches: rows of ``data``, one or more, of each step.
        optimiser: of the model's weights; it goes on from the moments that it holds.
        config: rates and augmentation.
        sampling_rate: Hz.
        seed: of augmentation and dropout.
        stretch: the part of the learning-rate schedule that these steps cover.
        proximal: weight mu of ``mu / 2 |w - start|^2`` in the loss (FedProx: Li et al. 2020, *Federated Optimization in
            Heterogeneous Networks*, equation 2); 0 leaves it out.
    """
    device = next(model.parameters()).device
    on_device = torch.Generator(device).manual_seed(seed)
    described = descriptions(model, data)
    positive = torch.tensor(config.positive_weights, device=device) if config.positive_weights else None
    start = [weights.detach().clone() for weights in model.parameters()] if proximal > 0 else []
    average = weight_average(model, config.averaging, len(batches)) if config.averaging > 0.0 else None
    losses = []
    model.train()
    # Dropout draws from the global generator: it is seeded here, and restored for whoever else uses it.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed + 1)
        for step, rows in enumerate(batches):
            progress = stretch.start + (stretch.end - stretch.start) * step / len(batches)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(config, progress)
            x = random_stretch(data.x[rows].to(device), config.crop, sampling_rate, on_device)
            x, y = augment(x, config, sampling_rate, on_device), data.y[rows].to(device)
            if config.tada > 0.0:
                attacked = model.differentiable if isinstance(model, Detector) else model
                x = harden(attacked, x, y, config.tada, sampling_rate, on_device)
            with mixed_precision(device, wide=True):
                answers = answers_of(model, x, described, rows)
            weight = data.weight[rows].to(device)
            loss = torch.stack([detector_loss(logits.float(), y, weight, positive) for logits in answers]).sum()
            losses.append(loss.detach() / len(answers))
            for weights, before in zip(model.parameters(), start, strict=False):
                loss = loss + 0.5 * proximal * (weights - before).square().sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimiser.step()
            if average is not None:
                average.update_parameters(model)
    if average is not None:
        model.load_state_dict(average.module.state_dict())
    model.eval()
    return torch.stack(losses).cpu() if losses else torch.zeros(0)


def descriptions(model: nn.Module, data: LabelledEcgs) -> Tensor | None:
    """Descriptions ``(n, SIZE)`` of all records, where the model reads them: those that are known, else found now."""
    if not isinstance(model, CombinedDetector):
        return None
    return model.describe(data.x) if data.described is None else data.described


def answers_of(model: nn.Module, x: Tensor, described: Tensor | None, rows: Tensor) -> tuple[Tensor, ...]:
    """Logits ``(B, 5)`` of every part that learns by a loss of its own; most models are of one part.

    Args:
        model: on its device.
        x: ``(B, 8, T)`` mV, made of some records.
        described: ``descriptions`` of all records.
        rows: ``(B,)`` which records these are.
    """
    if isinstance(model, CombinedDetector) and described is not None:
        return model.branches(x, described[rows].to(x.device))
    return (model(x),)


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, batch: int = 256, described: Tensor | None = None) -> Tensor:
    """Score ECGs ``(n, 8, T)``: probabilities ``(n, 5)`` float32 on the CPU.

    Args:
        model: a detector, on its device.
        x: mV.
        batch: ECGs at a time.
        described: ``(n, SIZE)``, where a combined detector's descriptions are known; it else finds them.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    known = (x,) if described is None else (x, described)
    batches = zip(*(tensor.split(batch) for tensor in known), strict=True)
    parts = [torch.sigmoid(model(*(rows.to(device) for rows in given)).float()).cpu() for given in batches]
    model.train(was_training)
    return torch.cat(parts) if parts else torch.zeros(0, 5)
