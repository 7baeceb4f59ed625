"""A site's local training of separator, editor and prior network around the broadcast codebook.

Half of a batch is abnormal, half NORM. An abnormal beat must come back from *healed beat + codes*; its codes, written
into a healthy patient, must make a twin that the frozen detector scores like the record the codes came from, that heals
back into the patient, and that is still nearer to that patient than to any other of the batch. The losses themselves
are in ``separator_losses``. The prior network learns which codes belong to whom.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lavq_core.data.labels import statement_classes
from lavq_core.errors import RunError
from lavq_core.models.codebook import (
    CodebookState,
    code_statistics,
    no_statistics,
    quantise,
    revive_dead_codes,
)
from lavq_core.models.networks import Networks
from lavq_core.models.prior import count_codes
from lavq_core.settings import Config
from lavq_core.training.device import mixed_precision
from lavq_core.training.guided import GuidedBeats, class_weights
from lavq_core.training.opponents import Opponents
from lavq_core.training.optimiser_state import moments_of, restore_moments
from lavq_core.training.separator_losses import Pass, losses_of

_REVIVE_EVERY = 10  # steps
CONTENT_NOISE = 0.05  # mV, hides from the content what the codes should carry
_LEFT_OUT = 0.3  # chance that the prior network is not told one of a record's statements
_WARMUP = 50  # steps over which the learning rate rises
_LAST_RATE = 0.05  # of the peak, that the learning rate falls to
_CLASS_BALANCE = torch.tensor([0.0, 1.0, 1.0, 1.3, 1.6])  # how often each superclass is drawn, rarer ones more


def scheduled_rate(peak: float, done: int, total: int) -> float:
    """Learning rate of the step after ``done`` of ``total``: a short rise, then a cosine."""
    progress = min(1.0, done / total)
    cosine = _LAST_RATE + (1.0 - _LAST_RATE) * 0.5 * (1.0 + math.cos(math.pi * progress))
    return peak * cosine * min(1.0, (done + 1) / _WARMUP)


class SeparatorTrainer:
    """Trains in place.

    Args:
        networks: on their device.
        codebook: the server's state; codes move locally by their moving average, the state itself is not changed.
        judge: frozen detector, or None while there is no trained one (the judge's losses are then left out).
        config: the run's.
        generator: CPU generator; the same state gives the same training.
        total: steps of the whole training, over all rounds, for the learning rate.
        done: steps that were taken in earlier rounds.
        kept: what ``keep`` gave after the site's last round; opponents and optimisers go on from there.
    """

    def __init__(
        self,
        networks: Networks,
        codebook: CodebookState,
        judge: nn.Module | None,
        config: Config,
        generator: torch.Generator,
        total: int,
        done: int = 0,
        kept: dict[str, Tensor] | None = None,
    ) -> None:
        self.networks, self.judge, self.config = networks, judge, config
        self.device = next(networks.parameters()).device
        self.codes = codebook["codes"].to(self.device)
        self._moving = {"counts": torch.ones(len(self.codes)), "sums": codebook["codes"].clone()}
        self._total, self._done = max(1, total), done
        self._generator = generator
        self._on_device = torch.Generator(self.device).manual_seed(int(torch.randint(2**62, (), generator=generator)))
        training, rate = config.separator_training, config.separator_training.lr
        self._edit_weights = [*networks.separator.parameters(), *networks.editor.parameters()]
        self._prior_weights = [*networks.prior.parameters()]
        groups = [
            {"params": self._edit_weights, "weight_decay": training.weight_decay, "betas": (0.8, 0.99)},
            {"params": self._prior_weights, "weight_decay": training.prior_weight_decay},
        ]
        self._optimiser = torch.optim.AdamW(groups, lr=rate, fused=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            self.opponents = Opponents(config).to(self.device)
        self._opponent = self.opponents.optimiser(training.opponents_lr)
        if kept:
            self._go_on(kept)

    def run(self, data: GuidedBeats, steps: int) -> dict[str, float]:
        """Take some steps on batches drawn with replacement; the mean of what the last quarter of the steps measured.

        Returns an empty dict when the site has no abnormal or no NORM-only record: it then trains no separator.
        """
        sick, healthy = data.abnormal(), data.norm_only()
        if min(len(sick), len(healthy)) == 0:
            return {}
        batch = self.config.separator_training.batch
        likely = data.y[sick] @ _CLASS_BALANCE  # (n,)
        self.networks.train()
        measured = []
        # Dropout draws from the global generator: it is seeded here, and restored for whoever else uses it.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(torch.randint(2**62, (), generator=self._generator)))
            for _ in range(steps):
                # With replacement: a site with three NORM records can still fill a batch.
                drawn = sick[torch.multinomial(likely, batch, replacement=True, generator=self._generator)]
                others = healthy[torch.randint(len(healthy), (batch,), generator=self._generator)]
                # Paired by heart rate: the T wave of a slow heart has no room in a fast one's beat.
                first, second = (rows[data.covariates[rows, 0].argsort()] for rows in (drawn, others))
                measured.append(self.step(data.take(first, self.device), data.take(second, self.device)))
        self.networks.eval()
        last = measured[-max(1, steps // 4) :]
        return {name: sum(row[name] for row in last) / len(last) for name in last[0]} if last else {}

    def step(self, sick: GuidedBeats, healthy: GuidedBeats) -> dict[str, float]:
        """Take one step on as many abnormal as NORM-only records (both on the device); returns what was measured."""
        self._set_rate()
        self.opponents.requires_grad_(False)  # here they judge: gradients of their own weights would be thrown away
        with mixed_precision(self.device):
            seen = self._forward(sick, healthy)
            losses = losses_of(seen, self.networks, self.codes, self.judge, self.opponents, self.config)
            symbols = torch.where(seen.opened > 0, seen.indices, torch.full_like(seen.indices, len(self.codes)))
            said = self._some_of(sick.asked_mask)
            losses["prior"] = self.networks.prior.loss(sick.covariates, sick.asked, said, symbols, self._on_device)
        total = torch.stack(list(losses.values())).sum()
        self._optimiser.zero_grad(set_to_none=True)
        total.backward()
        for weights in (self._edit_weights, self._prior_weights):
            nn.utils.clip_grad_norm_(weights, 1.0)
        self._optimiser.step()
        losses |= self._train_opponents(seen)
        self._move_codes(seen)
        self._done += 1
        return {
            "separator_loss": float(total.detach()),
            "gate_abnormal": float(seen.opened.mean()),
            "gate_norm": float((seen.nothing.probability > self.config.separator.gate_threshold).float().mean()),
            **{name: float(value.detach()) for name, value in losses.items()},
        }

    def _forward(self, sick: GuidedBeats, healthy: GuidedBeats) -> Pass:
        separator, editor = self.networks.separator, self.networks.editor
        found = separator(sick.x, sick.covariates, sick.valid, sick.memory, sick.mask)
        nothing = separator(healthy.x, healthy.covariates, healthy.valid, healthy.memory, healthy.mask)
        quantised, indices = quantise(found.latents.float(), self.codes)
        healed = editor(sick.x, sick.covariates, found.gate, None)
        content = healed + CONTENT_NOISE * self._noise(healed)
        recomposed = healed + editor.change(content, sick.covariates, found.gate, quantised)
        gate = found.gate * healthy.valid
        twin = editor(healthy.x, healthy.covariates, gate, quantised)
        again = editor(twin, healthy.covariates, gate, None)
        return Pass(sick, healthy, found, nothing, quantised, indices, healed, recomposed, gate, twin, again)

    def _some_of(self, mask: Tensor) -> Tensor:
        """Leave out some statements of each record ``(B, L)``, never all: a request seldom names all there is."""
        draw = torch.rand(mask.shape, generator=self._on_device, device=self.device) * mask
        return mask & ((draw > _LEFT_OUT) | (draw == draw.amax(dim=1, keepdim=True)))

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self._on_device, device=self.device)

    def _set_rate(self) -> None:
        for group in self._optimiser.param_groups:
            group["lr"] = scheduled_rate(self.config.separator_training.lr, self._done, self._total)

    def _train_opponents(self, seen: Pass) -> dict[str, Tensor]:
        if self._opponent is None:
            return {}
        self.opponents.requires_grad_(True)
        losses = self.opponents.losses(seen.sick, seen.healthy, seen.twin, seen.healed)
        self._opponent.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        self._opponent.step()
        return losses

    def keep(self) -> dict[str, Tensor]:
        """Return what the site's next round goes on from, on the CPU: the opponents, and both optimisers' moments."""
        kept = {f"opponents.{name}": value.detach().cpu() for name, value in self.opponents.state_dict().items()}
        for name, optimiser in self._optimisers():
            kept |= {f"{name}.{key}": value for key, value in moments_of(optimiser).items()}
        return kept

    def _go_on(self, kept: dict[str, Tensor]) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): v for key, v in kept.items() if key.startswith(prefix)}

        try:
            self.opponents.load_state_dict(part("opponents."))
        except RuntimeError:
            raise RunError(
                "this site's opponents had other settings: move its private_model away, or go back to them"
            ) from None
        for name, optimiser in self._optimisers():
            restore_moments(optimiser, part(f"{name}."))

    def _optimisers(self) -> list[tuple[str, torch.optim.Optimizer]]:
        found = [("optimiser", self._optimiser), ("opponent", self._opponent)]
        return [(name, optimiser) for name, optimiser in found if optimiser is not None]

    @torch.no_grad()
    def _move_codes(self, seen: Pass) -> None:
        """Moving average of the codes (van den Oord et al. 2017, appendix A.1); unused ones split a popular one."""
        fresh = code_statistics(seen.found.latents.float(), seen.indices, seen.opened > 0, len(self.codes))
        keep = self.config.codebook.ema
        state = {name: keep * self._moving[name] + (1.0 - keep) * fresh[name].cpu() for name in self._moving}
        state["codes"] = F.normalize(state["sums"], dim=-1)
        if self._done % _REVIVE_EVERY == _REVIVE_EVERY - 1:
            revive_dead_codes(state)
        self._moving = {name: state[name] for name in self._moving}
        self.codes = state["codes"].to(self.device)

    @torch.no_grad()
    def statistics(self, data: GuidedBeats, batch: int = 256) -> dict[str, Tensor]:
        """Fresh sums over all abnormal records, for the server: ``{"counts", "sums", "prior", "requests"}``, CPU."""
        K, separator = len(self.codes), self.networks.separator
        total = no_statistics(self.config.codebook, data.valid.shape[1])
        # A record of MI may carry LAFB as well, but a twin with LAFB is none of MI: each class counts its own.
        own = torch.from_numpy(statement_classes())  # (C, S)
        for rows in data.abnormal().split(batch):
            part = data.take(rows, self.device)
            found = separator(part.x, part.covariates, part.valid, part.memory, part.mask)
            _, indices = quantise(found.latents, self.codes)
            gate, weights = found.gate > 0.5, class_weights(part.y)
            fresh = code_statistics(found.latents, indices, gate, K)
            fresh["prior"] = count_codes(indices, gate, weights, K)
            fresh["requests"] = (weights.T @ part.statements).cpu() * own  # (C, S)
            total = {name: value + fresh[name].cpu() for name, value in total.items()}
        return total
