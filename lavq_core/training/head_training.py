"""Training of a features detector, private or not: the same steps, with noise or without.

A step takes the patients that take part (``privacy.noise.poisson_sample``; all of them where ``epochs`` equals
``steps``). A patient contributes the mean of that patient's clipped gradients; their sum gets noise and is divided by
the released number of patients times the sampling rate, both public. No loss is looked at, no step is left out: also
one that nobody takes part in adds its noise and counts.

Gradient descent with momentum on a fixed description: Tramer & Boneh 2021, section 3.2; clipping and noise: Abadi et
al. 2016, *Deep Learning with Differential Privacy*, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lavq_core.models.feature_detector import NORM, FeatureDetector
from lavq_core.privacy.clipping import clip_factors, clipped_sum, item_weights, release
from lavq_core.privacy.noise import poisson_sample
from lavq_core.settings import DetectorTrainingConfig
from lavq_core.training.detector_training import weight_average

Watch = Callable[[Tensor, Tensor], None]
"""Is told after every step the weights ``(5, SIZE + 1)``, which the accounting takes an adversary to see, and who has
taken part, ``(patients,)`` bool, which it does not."""


@dataclass(frozen=True)
class PatientItems:
    """Described records of a site's training patients."""

    x: Tensor  # (n, SIZE) float32
    y: Tensor  # (n, 5) 0 or 1
    owner: Tensor  # (n,) int64 in 0 .. patients - 1
    weight: Tensor  # (n,) float64, 1 over the number of items of its patient

    @classmethod
    def of(cls, x: Tensor, y: Tensor, patients: np.ndarray) -> PatientItems:
        """Put items of patients ``(n,)``, named by any number, together."""
        _, owner = np.unique(patients, return_inverse=True)
        return cls(x, y, torch.from_numpy(owner.astype(np.int64)), item_weights(owner.tolist()))

    @property
    def patients(self) -> int:
        """How many patients there are: private, see ``released_size``."""
        return int(self.owner.max()) + 1 if len(self.owner) else 0


def released_size(items: PatientItems, noise_multiplier: float) -> float:
    """Release the number of patients, of which one patient changes 1; at least 1."""
    count = torch.tensor([float(items.patients)], dtype=torch.float64)
    return max(1.0, float(release(count, 1.0, noise_multiplier)))


def released_centre(items: PatientItems, size: float, noise_multiplier: float) -> Tensor:
    """Release the mean description of the patients: ``(SIZE,)`` float32. ``size`` is the released number."""
    return (release(clipped_sum(items.x, items.weight, NORM), NORM, noise_multiplier) / size).float()


def train_head(
    model: FeatureDetector,
    items: PatientItems,
    config: DetectorTrainingConfig,
    clipping_norm: float,
    noise_multiplier: float,
    size: float,
    watch: Watch | None = None,
) -> float:
    """Take one round's steps in place; noise of 0 is training without privacy, which clips all the same.

    Args:
        model: with the broadcast weights and centre, on the CPU.
        items: the site's training patients.
        config: steps, rate, momentum, averaging.
        clipping_norm: C.
        noise_multiplier: standard deviation of a step's noise over C.
        size: released number of patients.
        watch: an auditor's.

    Returns:
        The mean loss over the items at the end; it is for the site alone, no noise is in it.
    """
    rate = config.epochs / config.steps
    with torch.no_grad():
        x, y = model.standard(items.x).double(), items.y.double()
        lengths, positive = x.norm(dim=1), _positive(config)
        weights = model.head.weight
        average = weight_average(model, config.averaging, config.steps) if config.averaging > 0 else None
        velocity = torch.zeros_like(weights, dtype=torch.float64)
        for _ in range(config.steps):
            taking_part = torch.zeros(items.patients, dtype=torch.bool)
            taking_part[poisson_sample(items.patients, rate)] = True
            rows = taking_part[items.owner]
            total = _clipped_gradient(
                x[rows], y[rows], items.weight[rows], lengths[rows], weights, positive, clipping_norm
            )
            gradient = release(total, clipping_norm, noise_multiplier) / (rate * size)
            velocity = config.momentum * velocity + gradient
            weights -= (config.lr * velocity).to(weights.dtype)
            if watch is not None:
                watch(weights.detach().clone(), taking_part)
            if average is not None:
                average.update_parameters(model)
        if average is not None:
            model.load_state_dict(average.module.state_dict())
        return float(F.binary_cross_entropy_with_logits(x @ model.head.weight.double().T, y))


def _clipped_gradient(
    x: Tensor, y: Tensor, share: Tensor, lengths: Tensor, weights: Tensor, positive: Tensor, clipping_norm: float
) -> Tensor:
    """Sum the items' clipped gradients of the cross-entropy, ``(5, SIZE + 1)``.

    An item's gradient is the outer product of its errors and its description, so its norm is the product of theirs
    (Goodfellow 2015, *Efficient Per-Example Gradient Computations*), and no gradient of an item is ever formed.
    """
    probability = torch.sigmoid(x @ weights.double().T)  # (m, 5)
    error = torch.where(y > 0, positive, 1.0) * (probability - y)  # (m, 5)
    factors = clip_factors(error.norm(dim=1) * lengths, clipping_norm) * share  # (m,)
    return (error * factors[:, None]).T @ x


def _positive(config: DetectorTrainingConfig) -> Tensor:
    return torch.tensor(config.positive_weights or [1.0], dtype=torch.float64)
