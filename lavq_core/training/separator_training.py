"""One training step of separator and editor, and a site's local steps.

Losses that reward the job (DESIGN section 4): an abnormal ECG must come back from *healed signal + codes*, so the
disease has to pass the codes; the healed signal must read as NORM and a twin as the requested disease, to a frozen
detector; a twin must heal back into the patient it came from; a NORM record must be left alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lavq_core.config import Config, SeparatorLossConfig
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.models.codebook import (
    CodebookState,
    code_statistics,
    commitment_loss,
    quantise,
    revive_dead_codes,
    usage_loss,
)
from lavq_core.models.editor import Editor
from lavq_core.models.prior import count_codes, sample_codes
from lavq_core.models.separator import Separation, Separator
from lavq_core.training.device import mixed_precision
from lavq_core.training.guided import NORM, GuidedEcgs, class_weights

_REVIVE_EVERY = 10  # steps
_FORGET = 0.99  # what the local prior keeps per step: codes change their meaning while they are learned
_CONTENT_NOISE = 0.05  # mV, hides from the content what the codes should carry


class SeparatorTrainer:
    """A site's local training of separator and editor around the broadcast codebook.

    Args:
        separator, editor: trained in place.
        codebook: the server's state; codes move locally by their moving average, the state itself is not changed.
        judge: frozen detector, or None while there is no trained one (the judge's losses are then left out).
        config: the run's.
        generator: CPU generator; the same state gives the same training.
    """

    def __init__(
        self,
        separator: Separator,
        editor: Editor,
        codebook: CodebookState,
        judge: nn.Module | None,
        config: Config,
        generator: torch.Generator,
    ) -> None:
        self.device = next(separator.parameters()).device
        self.separator, self.editor, self.judge, self.config = separator, editor, judge, config
        self.codes = codebook["codes"].to(self.device)
        self.prior = codebook["prior"].to(self.device)
        self._moving = {"counts": torch.ones(len(self.codes)), "sums": codebook["codes"].clone()}
        self._steps = 0
        self._generator = generator
        self._on_device = torch.Generator(self.device).manual_seed(int(torch.randint(2**62, (), generator=generator)))
        training = config.separator_training
        parameters = [*separator.parameters(), *editor.parameters()]
        self._optimiser = torch.optim.AdamW(parameters, lr=training.lr, weight_decay=training.weight_decay, fused=True)
        self._parameters = parameters

    def step(self, sick: GuidedEcgs, healthy: GuidedEcgs) -> dict[str, float]:
        """Take one step on as many abnormal as NORM-only records (both on the device); returns what was measured."""
        weights = class_weights(sick.y)
        with mixed_precision(self.device):
            found = self.separator(sick.x, sick.memory, sick.mask)
            nothing = self.separator(healthy.x, healthy.memory, healthy.mask)
            quantised, indices = quantise(found.latents.float(), self.codes)
            losses = self._abnormal_losses(sick, found, quantised)
            gate = found.gate.detach() > 0.5
            self.prior = _FORGET * self.prior + count_codes(indices, gate, sick.phases, weights, len(self.codes))
            losses |= self._twin_losses(sick, weights, healthy)
        losses |= _gate_losses(found, nothing, self.config.separator_training.loss)
        total = torch.stack(list(losses.values())).sum()
        self._optimiser.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimiser.step()
        self._move_codes(found, indices, gate)
        return {
            "separator_loss": float(total.detach()),
            "gate_abnormal": float(gate.float().mean()),
            "gate_norm": float((nothing.probability > self.config.separator.gate_threshold).float().mean()),
            **{name: float(value.detach()) for name, value in losses.items()},
        }

    def run(self, data: GuidedEcgs, steps: int) -> dict[str, float]:
        """Take some steps on batches drawn with replacement; the mean of what the last quarter of the steps measured.

        Returns an empty dict when the site has no abnormal or no NORM-only record: it then trains no separator.
        """
        batch = self.config.separator_training.batch
        pools = [data.abnormal(), data.norm_only()]
        if min(len(pool) for pool in pools) == 0:
            return {}
        self.separator.train()
        self.editor.train()
        measured = []
        for _ in range(steps):
            # With replacement: a site with three NORM records can still fill a batch.
            rows = [pool[torch.randint(len(pool), (batch,), generator=self._generator)] for pool in pools]
            measured.append(self.step(data.take(rows[0], self.device), data.take(rows[1], self.device)))
        self.separator.eval()
        self.editor.eval()
        last = measured[-max(1, steps // 4) :]
        return {name: sum(row[name] for row in last) / len(last) for name in last[0]} if last else {}

    def _abnormal_losses(self, sick: GuidedEcgs, found: Separation, quantised: Tensor) -> dict[str, Tensor]:
        weight = self.config.separator_training.loss
        healed = self.editor(sick.x, found.gate, None)
        noise = _CONTENT_NOISE * torch.randn(healed.shape, generator=self._on_device, device=self.device)
        recomposed = healed + self.editor.change(healed + noise, found.gate, quantised)
        told = self.separator.read_codes(quantised).float()  # (B, N, 5)
        wrong = F.binary_cross_entropy_with_logits(told, sick.y.unsqueeze(1).expand_as(told), reduction="none").mean(-1)
        opened = found.gate.detach()
        closure = (wrong * opened).sum() / opened.sum().clamp_min(1.0)
        losses = {
            "closure": weight.closure * closure,
            "usage": weight.usage * usage_loss(found.latents.float(), self.codes, found.gate.detach()),
            "reconstruction": weight.reconstruction * _relative_error(recomposed, sick.x),
            "commitment": weight.commitment * commitment_loss(found.latents.float(), self.codes, found.gate.detach()),
        }
        if self.judge is not None:
            target = torch.zeros_like(sick.y)
            target[:, NORM] = 1.0
            losses["judge_healed"] = weight.judge_healed * F.binary_cross_entropy_with_logits(
                self.judge(healed).float(), target
            )
        return losses

    def _twin_losses(self, sick: GuidedEcgs, weights: Tensor, healthy: GuidedEcgs) -> dict[str, Tensor]:
        """Twins of the healthy half for the diseases of the abnormal half, codes drawn from the prior."""
        weight = self.config.separator_training.loss
        wanted = torch.multinomial(weights, 1, generator=self._on_device).flatten()  # (B,) superclass
        gate, indices = sample_codes(self.prior, wanted, healthy.phases, 1.0, self._on_device)
        codes = self.codes[indices]  # (B, N, D)
        twin = self.editor(healthy.x, gate, codes)
        again = self.separator(twin, sick.memory, sick.mask)
        similarity = (F.normalize(again.latents.float(), dim=-1) * codes).sum(-1)  # (B, N)
        losses = {
            "economy": weight.economy * _relative_error(twin, healthy.x),
            "roughness": weight.roughness * _relative_error(twin.diff(n=2), healthy.x.diff(n=2)),
            "cycle": weight.cycle * _relative_error(self.editor(twin, gate, None), healthy.x),
            "gate_cycle": weight.gate_cycle * _probability_loss(again.probability, gate),
            "code_cycle": weight.code_cycle * ((1.0 - similarity) * gate).sum() / gate.sum().clamp_min(1.0),
        }
        if self.judge is not None:
            target = F.one_hot(wanted, len(SUPERCLASSES)).float()
            losses["judge_twin"] = weight.judge_twin * F.binary_cross_entropy_with_logits(
                self.judge(twin).float(), target
            )
        return losses

    @torch.no_grad()
    def _move_codes(self, found: Separation, indices: Tensor, gate: Tensor) -> None:
        """Moving average of the codes (van den Oord et al. 2017, appendix A.1); unused ones split a popular one."""
        fresh = code_statistics(found.latents.float(), indices, gate, len(self.codes))
        keep = self.config.codebook.ema
        state = {name: keep * self._moving[name] + (1.0 - keep) * fresh[name].cpu() for name in self._moving}
        state["codes"] = F.normalize(state["sums"], dim=-1)
        state["prior"] = self.prior.cpu()
        self._steps += 1
        if self._steps % _REVIVE_EVERY == 0:
            revive_dead_codes(state)
        self._moving = {name: state[name] for name in self._moving}
        self.codes, self.prior = state["codes"].to(self.device), state["prior"].to(self.device)

    @torch.no_grad()
    def statistics(self, data: GuidedEcgs, batch: int = 256) -> dict[str, Tensor]:
        """Fresh sums over all abnormal records, for the server: ``{"counts", "sums", "prior"}`` on the CPU."""
        K = len(self.codes)
        total = {"counts": torch.zeros(K), "sums": torch.zeros(K, self.codes.shape[1])}
        total["prior"] = torch.zeros_like(self.prior, device="cpu")
        for rows in data.abnormal().split(batch):
            part = data.take(rows, self.device)
            found = self.separator(part.x, part.memory, part.mask)
            _, indices = quantise(found.latents, self.codes)
            gate = found.gate > 0.5
            for name, value in code_statistics(found.latents, indices, gate, K).items():
                total[name] += value.cpu()
            total["prior"] += count_codes(indices, gate, part.phases, class_weights(part.y), K).cpu()
        return total


def _relative_error(y: Tensor, x: Tensor) -> Tensor:
    """Mean over the batch of the error's energy over the signal's (NMSE); ``(B, 8, T)`` each."""
    centred = x - x.mean(dim=-1, keepdim=True)
    return ((y - x).square().sum((1, 2)) / centred.square().sum((1, 2)).clamp_min(1e-3)).mean()


def _probability_loss(probability: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy(probability.float().clamp(1e-6, 1 - 1e-6), target)


def _gate_losses(sick: Separation, healthy: Separation, weight: SeparatorLossConfig) -> dict[str, Tensor]:
    """Sparse where there is disease but never dead, shut where there is none, and smooth.

    The mean is that of the hard gate, whose gradient passes straight through: a mean of probabilities is satisfied by
    probabilities that all lie just below the threshold, with every gate shut.
    """
    level = sick.gate.mean()
    return {
        "sparsity": weight.sparsity * level,
        "norm_gate": weight.norm_gate * healthy.probability.mean(),
        "gate_floor": weight.gate_floor * torch.relu(weight.gate_floor_level - level),
        "smoothness": weight.smoothness * (sick.gate[:, 1:] - sick.gate[:, :-1]).abs().mean(),
    }
