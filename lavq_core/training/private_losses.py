"""The separator's losses where training is private: every term is of one patient alone.

An abnormal record must come back from *healed beat + codes*, its healed beat must read as NORM, and the prior network
learns its codes. A NORM record gets a twin without a donor: statement, gate and codes are drawn beforehand from what is
public by then (the requests' counts and the prior network as they were released), so no other patient takes part. The
twin must heal back into the patient, be separated into what it was made of, and read as what was asked for.

What couples the records of a batch, and the opponents, are not here (``settings_check.NOT_PRIVATE``). The gate's
bounds, which hold for the mean of a batch elsewhere, hold for each record.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lavq_core.models.beat_judge import BeatJudge
from lavq_core.models.codebook import commitment_loss, quantise
from lavq_core.models.networks import Networks
from lavq_core.privacy.patient_gradients import Items
from lavq_core.settings import Config
from lavq_core.training.guided import NORM
from lavq_core.training.separator_losses import gated_mean, relative_error, surprise

_CODEBOOK = 1.0  # weight of the pull of the codes towards their latents (van den Oord et al. 2017, equation 3)


class PatientLosses(nn.Module):
    """Losses of one item, as a module whose parameters are all that is trained.

    Args:
        networks: trained in place.
        codes: ``(K, D)`` unit vectors; parameters where the codebook is learned by gradient, else fixed.
        judge: of beats, or None while there is no trained one.
        config: the run's.
    """

    codes: Tensor

    def __init__(self, networks: Networks, codes: Tensor, judge: BeatJudge | None, config: Config) -> None:
        super().__init__()
        self.networks, self.judge = networks, judge
        self.weight = config.separator_training.loss
        self.learned = config.privacy.codebook == "gradient"
        if self.learned:
            self.codes = nn.Parameter(codes.clone())
        else:
            self.register_buffer("codes", codes.clone())

    def forward(self, item: Items, abnormal: bool) -> Tensor:
        """Loss of one record; ``item`` as ``PrivateSeparatorTrainer`` makes it, without a batch dimension."""
        one = {name: value.unsqueeze(0) for name, value in item.items()}
        codes = F.normalize(self.codes, dim=-1)
        losses = self._of_abnormal(one, codes) if abnormal else self._of_norm(one, codes)
        return torch.stack(losses).sum()

    def _of_abnormal(self, one: Items, codes: Tensor) -> list[Tensor]:
        separator, editor, weight = self.networks.separator, self.networks.editor, self.weight
        x, covariates = one["x"], one["covariates"]
        found = separator(x, covariates, one["valid"], one["memory"], one["mask"])
        quantised, indices = quantise(found.latents, codes)
        opened = found.gate.detach()
        healed = editor(x, covariates, found.gate, None)
        recomposed = healed + editor.change(healed + one["noise"], covariates, found.gate, quantised)
        told = separator.read_codes(quantised)  # (1, N, 5)
        wrong = F.binary_cross_entropy_with_logits(told, one["y"].unsqueeze(1).expand_as(told), reduction="none")
        level = found.gate.mean()
        symbols = torch.where(opened > 0, indices, torch.full_like(indices, len(codes)))
        losses = [
            weight.reconstruction * relative_error(recomposed, x),
            weight.closure * gated_mean(wrong.mean(-1), opened),
            weight.commitment * commitment_loss(found.latents, codes.detach(), opened),
            weight.sparsity * level,
            weight.gate_bounds * torch.relu(level - weight.gate_ceiling),
            weight.gate_bounds * torch.relu(weight.gate_floor - level),
            weight.smoothness * (found.gate[:, 1:] - found.gate[:, :-1]).abs().mean(),
            self.networks.prior.loss_where(covariates, one["asked"], one["asked_mask"], symbols, one["hide"]),
        ]
        if self.learned:
            losses.append(_CODEBOOK * commitment_loss(found.latents.detach(), codes, opened))
        if self.judge is not None:
            normal = (torch.arange(one["y"].shape[1]) == NORM).to(healed).unsqueeze(0)  # (1, 5)
            losses.append(weight.judge_healed * F.binary_cross_entropy_with_logits(self.judge(healed), normal))
        return losses

    def _of_norm(self, one: Items, codes: Tensor) -> list[Tensor]:
        separator, editor, weight = self.networks.separator, self.networks.editor, self.weight
        x, covariates, valid, symbols = one["x"], one["covariates"], one["valid"], one["symbols"]
        nothing = separator(x, covariates, valid, one["memory"], one["mask"])
        gate = (symbols < len(codes)).to(x) * valid  # (1, N)
        written = codes[symbols.clamp_max(len(codes) - 1)]  # (1, N, D)
        twin = editor(x, covariates, gate, written)
        again = editor(twin, covariates, gate, None)
        found = separator(twin, covariates, valid, one["asked"], one["asked_mask"])
        similarity = (F.normalize(found.latents, dim=-1) * written.detach()).sum(-1)  # (1, N)
        losses = [
            weight.norm_gate * nothing.probability.mean(),
            weight.cycle * relative_error(again, x),
            weight.gate_cycle * surprise(found.probability, gate),
            weight.code_cycle * gated_mean(1.0 - similarity, gate),
        ]
        if self.judge is not None:
            losses.append(weight.judge_twin * F.binary_cross_entropy_with_logits(self.judge(twin), one["wanted"]))
        return losses
