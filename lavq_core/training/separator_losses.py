"""Losses that reward the separator's and editor's job (DESIGN section 4).

Each names what it buys. Those that couple the records of a batch (``identity``, ``usage``, ``wrong_report``) or need an
opponent that learns from the same patients (``adversarial``, ``statements``) are switched off by their weight where
training is private per patient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lavq_core.models.codebook import commitment_loss, usage_loss
from lavq_core.models.networks import Networks
from lavq_core.models.separator import Separation
from lavq_core.models.strip import strip
from lavq_core.settings import Config, SeparatorLossConfig
from lavq_core.training.guided import NORM, GuidedBeats
from lavq_core.training.opponents import Opponents

_SLOPE_SHARE = 0.5  # how much an error of the slope counts beside one of the voltage: QRS complexes are all slope
_SMALLEST = 0.05  # mV^2 summed over leads and samples; no beat of less energy is scaled up
_SMALLEST_SLOPE = 0.01


@dataclass
class Pass:
    """One forward pass over a batch of abnormal and as many healthy records."""

    sick: GuidedBeats
    healthy: GuidedBeats
    found: Separation  # of the abnormal beats
    nothing: Separation  # of the healthy beats
    quantised: Tensor  # (B, N, D) codes of the abnormal beats
    indices: Tensor  # (B, N) int64
    healed: Tensor  # (B, 8, W) mV, abnormal beats with their gated phases made normal
    recomposed: Tensor  # (B, 8, W) mV, healed beats with their codes written back
    gate: Tensor  # (B, N) the abnormal gate, where the healthy beat has room for it
    twin: Tensor  # (B, 8, W) mV, healthy beats with the abnormal codes
    again: Tensor  # (B, 8, W) mV, healed twins

    @property
    def opened(self) -> Tensor:
        """Gate of the abnormal beats without gradient, ``(B, N)`` 0 or 1."""
        return self.found.gate.detach()


def losses_of(
    seen: Pass,
    networks: Networks,
    codes: Tensor,
    judge: nn.Module | None,
    opponents: Opponents,
    config: Config,
) -> dict[str, Tensor]:
    """Weigh every loss of separator and editor: name to a scalar. ``codes (K, D)`` are the current ones."""
    weight = config.separator_training.loss
    losses = _coding_losses(seen, networks, codes, weight) | _twin_losses(seen, networks, weight)
    losses |= _gate_losses(seen, weight) | _report_losses(seen, networks, weight)
    if judge is not None:
        losses |= _judge_losses(seen, judge, weight)
    sick, healthy = seen.sick, seen.healthy
    if opponents.discriminator is not None:
        made = opponents.discriminator(seen.twin, sick.asked, sick.asked_mask, sick.y).mean()
        made = made + opponents.discriminator(seen.healed, healthy.asked, healthy.asked_mask, healthy.y).mean()
        losses["adversarial"] = -weight.adversarial * made
    if opponents.classifier is not None:
        with torch.no_grad():
            real = opponents.classifier(sick.x).float()
        distance = F.smooth_l1_loss(opponents.classifier(seen.twin).float(), real, reduction="none")  # (B, S)
        # Most of the 44 are absent everywhere: a record's own would drown among them.
        own = (distance * sick.statements).sum() / sick.statements.sum().clamp_min(1.0)
        losses["statements"] = weight.statements * 0.5 * (own + distance.mean())
    return losses


def _coding_losses(seen: Pass, networks: Networks, codes: Tensor, weight: SeparatorLossConfig) -> dict[str, Tensor]:
    """The codes bring the disease back, each names its superclasses, and all are used."""
    told = networks.separator.read_codes(seen.quantised).float()  # (B, N, 5)
    target = seen.sick.y.unsqueeze(1).expand_as(told)
    wrong = F.binary_cross_entropy_with_logits(told, target, reduction="none").mean(-1)  # (B, N)
    latents = seen.found.latents.float()
    return {
        "reconstruction": weight.reconstruction * relative_error(seen.recomposed, seen.sick.x),
        "closure": weight.closure * gated_mean(wrong, seen.opened),
        "usage": weight.usage * usage_loss(latents, codes, seen.opened),
        "commitment": weight.commitment * commitment_loss(latents, codes, seen.opened),
    }


def _twin_losses(seen: Pass, networks: Networks, weight: SeparatorLossConfig) -> dict[str, Tensor]:
    """A twin heals into its patient, is taken for that patient, and is separated into what it was made of."""
    sick, healthy, gate = seen.sick, seen.healthy, seen.gate.detach()
    found = networks.separator(seen.twin, healthy.covariates, healthy.valid, sick.memory, sick.mask)
    similarity = (F.normalize(found.latents.float(), dim=-1) * seen.quantised).sum(-1)  # (B, N)
    return {
        "cycle": weight.cycle * relative_error(seen.again, healthy.x),
        "identity": weight.identity * identity_loss(seen.twin, healthy.x),
        "gate_cycle": weight.gate_cycle * surprise(found.probability.float(), gate),
        "code_cycle": weight.code_cycle * gated_mean(1.0 - similarity, gate),
    }


def _judge_losses(seen: Pass, judge: nn.Module, weight: SeparatorLossConfig) -> dict[str, Tensor]:
    """The healed beat reads as NORM; the twin scores like the record whose codes it carries, no less and no more."""
    sick, healthy = seen.sick, seen.healthy
    normal = torch.zeros_like(sick.y)
    normal[:, NORM] = 1.0
    healed = judge(strip(seen.healed, sick.places)).float()
    with torch.no_grad():
        real = judge(strip(sick.x, sick.places)).float()
    twin = judge(strip(seen.twin, healthy.places)).float()
    return {
        "judge_healed": weight.judge_healed * F.binary_cross_entropy_with_logits(healed, normal),
        "judge_twin": weight.judge_twin * _score_loss(twin, real, sick.y),
    }


def _score_loss(twin: Tensor, real: Tensor, y: Tensor) -> Tensor:
    """Distance of logits ``(B, 5)`` from those of the real record; too weak a sign of its own classes counts twice.

    Codes say less than the record did, and a regression answers that with twins that show too little.
    """
    distance = F.smooth_l1_loss(twin, real, reduction="none")
    return (distance * (1.0 + y * (twin < real))).mean()


def _gate_losses(seen: Pass, weight: SeparatorLossConfig) -> dict[str, Tensor]:
    """Sparse where there is disease but never dead, shut where there is none, and smooth.

    The mean is that of the hard gate, whose gradient passes straight through: a mean of probabilities is satisfied by
    probabilities that all lie just below the threshold, with every gate shut.
    """
    level = seen.found.gate.mean()
    return {
        "sparsity": weight.sparsity * level,
        "gate_ceiling": weight.gate_bounds * torch.relu(level - weight.gate_ceiling),
        "gate_floor": weight.gate_bounds * torch.relu(weight.gate_floor - level),
        "norm_gate": weight.norm_gate * seen.nothing.probability.mean(),
        "smoothness": weight.smoothness * (seen.found.gate[:, 1:] - seen.found.gate[:, :-1]).abs().mean(),
    }


def _report_losses(seen: Pass, networks: Networks, weight: SeparatorLossConfig) -> dict[str, Tensor]:
    """Under the report of a record with none of its diseases, a record's gate stays shut where its own opened it."""
    sick, other = seen.sick, torch.arange(len(seen.sick), device=seen.sick.x.device).roll(1)
    swapped = networks.separator(sick.x, sick.covariates, sick.valid, sick.memory[other], sick.mask[other])
    foreign = ((sick.y * sick.y[other]).sum(1, keepdim=True) == 0).float()  # (B, 1)
    return {"wrong_report": weight.wrong_report * gated_mean(swapped.probability, seen.opened * foreign)}


def identity_loss(twins: Tensor, patients: Tensor) -> Tensor:
    """Cross-entropy of finding each twin's patient among the batch by the distance of median beats.

    InfoNCE (van den Oord et al. 2018) with minus the squared distance as similarity, in mV^2 over leads and samples:
    an edit may be large as long as it does not make the twin look like somebody else. ``(B, 8, W)`` each.
    """
    distance = torch.cdist(twins.flatten(1).float(), patients.flatten(1).float()).square()  # (B, B)
    return F.cross_entropy(-distance, torch.arange(len(twins), device=twins.device))


def relative_error(y: Tensor, x: Tensor) -> Tensor:
    """Mean over the batch of the error's energy over the signal's, of voltage and of slope; ``(B, 8, W)`` each."""
    voltage = _relative_square(y - x, x - x.mean(dim=-1, keepdim=True), _SMALLEST)
    slope = _relative_square((y - x).diff(dim=-1), x.diff(dim=-1), _SMALLEST_SLOPE)
    return voltage + _SLOPE_SHARE * slope


def _relative_square(error: Tensor, signal: Tensor, smallest: float) -> Tensor:
    return (error.square().sum((1, 2)) / signal.square().sum((1, 2)).clamp_min(smallest)).mean()


def surprise(probability: Tensor, gate: Tensor) -> Tensor:
    """Mean binary cross-entropy of probabilities, written out: PyTorch's own is refused under mixed precision."""
    p = probability.clamp(1e-6, 1.0 - 1e-6)
    return -(gate * p.log() + (1.0 - gate) * (1.0 - p).log()).mean()


def gated_mean(value: Tensor, gate: Tensor) -> Tensor:
    """Mean of ``value`` where the gate is open; 0 where it is shut everywhere."""
    return (value * gate).sum() / gate.sum().clamp_min(1.0)
