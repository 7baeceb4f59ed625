"""One patient's detector: the population's, fine-tuned on that patient's own twins.

After Hu et al. (IJCAI 2024), prospective learning: before a disease shows, the detector learns what it would look like
in this patient. Examples are twins of every disease that the federation has seen, and the reference itself as NORM;
augmentation makes each copy another. Only the last layers move (a ResNet's last block and its head), and a penalty
holds them near the population's weights (L2-SP: Li et al., ICML 2018), for one ECG may not overturn what thousands
taught.

Whether one's own twins help more than somebody else's is not shown by this module: see the evaluation with controls.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.models.detector import Detector
from lavq_core.settings import DetectorTrainingConfig, PersonalConfig
from lavq_core.training.augmentation import augment, random_stretch
from lavq_core.training.detector_training import LabelledEcgs, answers_of, descriptions, detector_loss


def personal_examples(reference: Tensor, twins: Tensor, classes: Tensor) -> LabelledEcgs:
    """Put twins and reference together, NORM weighing as much as all diseases.

    Args:
        reference: ``(8, T)`` mV.
        twins: ``(n, 8, T)`` mV, n at least 1.
        classes: ``(n,)`` superclass that each was made with.
    """
    x = torch.cat([twins, reference.expand(len(twins), -1, -1)])  # (2n, 8, T)
    y = nn.functional.one_hot(torch.cat([classes, torch.zeros_like(classes)]), len(SUPERCLASSES)).float()
    return LabelledEcgs(x, y, torch.ones(len(x)))


def personalise(
    population: Detector,
    data: LabelledEcgs,
    config: PersonalConfig,
    augmentation: DetectorTrainingConfig,
    sampling_rate: int,
    seed: int,
) -> Detector:
    """Fine-tune a copy of the population's detector; the population's stays as it is.

    Args:
        population: trained.
        data: of ``personal_examples``.
        config: steps, rate and anchor.
        augmentation: length of the stretches that are trained on, and sizes of the changes.
        sampling_rate: Hz.
        seed: of batches and augmentation; another seed shows how much the result owes to chance.

    Returns:
        The patient's detector, in eval mode: nothing is dropped while it is fine-tuned.
    """
    model = copy.deepcopy(population).eval()
    generator = torch.Generator().manual_seed(seed)
    moving = model.last_layers()
    model.requires_grad_(False)
    start = [weight.detach().clone() for weight in moving]
    for weight in moving:
        weight.requires_grad_(True)
    optimiser = torch.optim.AdamW(moving, lr=config.lr, weight_decay=0.0)
    described = descriptions(model, data)
    for _ in range(config.steps):
        rows = torch.randint(len(data), (config.batch,), generator=generator)
        x = random_stretch(data.x[rows], augmentation.crop, sampling_rate, generator)  # as the population's was trained
        x = augment(x, augmentation, sampling_rate, generator)
        away = torch.stack([(now - then).square().sum() for now, then in zip(moving, start, strict=True)]).sum()
        answers = answers_of(model, x, described, rows)
        losses = [detector_loss(logits, data.y[rows], data.weight[rows]) for logits in answers]
        loss = torch.stack(losses).sum() + config.anchor * away
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return model.requires_grad_(True)
