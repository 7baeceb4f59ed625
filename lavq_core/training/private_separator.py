"""Private training of separator, editor, prior network and codes at one site, and what it releases.

A step takes patients by Poisson sampling at a public rate, one random record of each, clips every patient's gradient,
adds noise and divides by a public number. A step that nobody takes part in is a step as well, and so is one at a site
without abnormal patients: whether there are any is private. Nothing is drawn by class, since that would change a
patient's rate. What AdamW makes of the noised gradients is theirs (post-processing).

Codes are parameters within the same clip, or stay as broadcast and the server finds them from private sums
(``privacy.codebook``). No moving average of latents and no code copied from one exists here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from lavq_core.data.labels import SUPERCLASSES, statement_classes
from lavq_core.models.beat_judge import BeatJudge
from lavq_core.models.codebook import CodebookState
from lavq_core.models.networks import Networks
from lavq_core.models.prior import draw_statements
from lavq_core.privacy.noise import poisson_sample
from lavq_core.privacy.patient_gradients import Items, Loss, Weights, clipped_gradients, noisy_mean
from lavq_core.settings import Config
from lavq_core.text.statements import named, requests
from lavq_core.training.guided import GuidedBeats
from lavq_core.training.optimiser_state import moments_of, restore_moments
from lavq_core.training.private_losses import PatientLosses
from lavq_core.training.separator_training import CONTENT_NOISE, scheduled_rate

_UNSEEN = 1e-3  # how much a statement of which nothing was released counts, in records


class PrivateSeparatorTrainer:
    """Trains in place, on the CPU.

    Args:
        networks: as the round starts from.
        codebook: the server's state; it is not changed.
        judge: see ``PatientLosses``.
        config: the run's.
        generator: of ``privacy.noise.secret_generator``, for which record of a patient, requests, hidden symbols.
        noise_multiplier: standard deviation of a step's noise over C.
        size: released number of patients.
        total: steps of the whole training, for the learning rate.
        done: steps of earlier rounds.
        kept: what ``keep`` gave after the site's last round.
    """

    def __init__(
        self,
        networks: Networks,
        codebook: CodebookState,
        judge: BeatJudge | None,
        config: Config,
        generator: torch.Generator,
        noise_multiplier: float,
        size: float,
        total: int,
        done: int = 0,
        kept: Mapping[str, Tensor] | None = None,
    ) -> None:
        # No dropout: noise does its work, and a gradient of one patient needs no other.
        self.losses = PatientLosses(networks.eval(), codebook["codes"], judge, config)
        self.networks, self.config = networks, config
        self._known, self._generator = codebook["requests"], generator
        self._noise_multiplier, self._size = noise_multiplier, size
        self._total, self._done = max(1, total), done
        training = config.separator_training
        codes = [self.losses.codes] if self.losses.learned else []
        groups: list[dict[str, Any]] = [
            {"params": [*networks.separator.parameters(), *networks.editor.parameters()]},
            {"params": [*networks.prior.parameters()], "weight_decay": training.prior_weight_decay},
            {"params": codes, "weight_decay": 0.0},
        ]
        self._optimiser = torch.optim.AdamW(groups, lr=training.lr, weight_decay=training.weight_decay)
        if kept:
            restore_moments(self._optimiser, {key.removeprefix("optimiser."): value for key, value in kept.items()})

    @property
    def codes(self) -> Tensor:
        """The codes as trained, ``(K, D)`` unit vectors."""
        return self.losses.codes.detach().clone()

    def run(self, data: GuidedBeats, owner: Tensor, steps: int) -> None:
        """Take steps on the site's records, of patients ``owner (n,)`` int64; every step adds noise."""
        patients = owner.unique()
        for _ in range(steps):
            taking_part = patients[poisson_sample(len(patients), self.config.privacy.separator_rate)]
            self.step(data, owner, self._one_record_each(owner, taking_part))

    def step(self, data: GuidedBeats, owner: Tensor, rows: Tensor) -> None:
        """Take one step on some records, none or more, each of another patient.

        Raises:
            ValueError: a patient is there twice, who could then contribute more than C.
        """
        if len(owner[rows].unique()) < len(rows):
            raise ValueError("a patient may take part in a step with one record only")
        clip, rate = self.config.privacy.separator_clipping_norm, self.config.privacy.separator_rate
        total = self.clipped_sum(data, owner, rows)
        gradient = noisy_mean(total, clip, self._noise_multiplier, rate * self._size)
        for name, weights in self.losses.named_parameters():
            weights.grad = gradient[name]
        for group in self._optimiser.param_groups:
            group["lr"] = scheduled_rate(self.config.separator_training.lr, self._done, self._total)
        self._optimiser.step()
        if self.losses.learned:
            with torch.no_grad():
                self.losses.codes.copy_(F.normalize(self.losses.codes, dim=-1))
        self._done += 1

    def clipped_sum(self, data: GuidedBeats, owner: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Sum the clipped gradients of some records, by name: one patient more or less changes it by at most C."""
        part, whose = data.take(rows), owner[rows]
        weights = dict(self.losses.named_parameters())
        total = {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in weights.items()}
        for abnormal, chosen in ((True, part.abnormal()), (False, part.norm_only())):
            if len(chosen) == 0:
                continue
            mine = part.take(chosen)
            items = self.items(mine, abnormal)
            clip = self.config.privacy.separator_clipping_norm
            for name, value in clipped_gradients(self.loss(abnormal), weights, items, whose[chosen], clip).items():
                total[name] += value
        return total

    def keep(self) -> dict[str, Tensor]:
        """Return what the site's next round goes on from: the optimiser's moments."""
        return {f"optimiser.{key}": value for key, value in moments_of(self._optimiser).items()}

    def items(self, data: GuidedBeats, abnormal: bool) -> dict[str, Tensor]:
        """Make items of some records for ``PatientLosses``: what is drawn for each does not look at the others."""
        return self._abnormal_items(data) if abnormal else self._norm_items(data)

    def loss(self, abnormal: bool) -> Loss:
        """Return the loss of one item by weights."""

        def loss(weights: Weights, item: Items) -> Tensor:
            return functional_call(self.losses, dict(weights), (item, abnormal))

        return loss

    def _one_record_each(self, owner: Tensor, patients: Tensor) -> Tensor:
        """Choose one record of each patient by chance: rows."""
        order = torch.randperm(len(owner), generator=self._generator)
        first = np.unique(owner[order].numpy(), return_index=True)
        chosen = dict(zip(first[0].tolist(), order[torch.from_numpy(first[1])].tolist(), strict=True))
        return torch.tensor([chosen[patient] for patient in patients.tolist()], dtype=torch.int64)

    def _abnormal_items(self, data: GuidedBeats) -> dict[str, Tensor]:
        tokens = data.valid.shape[1]
        blank = torch.zeros(len(data), tokens, dtype=torch.int64)
        return {
            "x": data.x, "covariates": data.covariates, "valid": data.valid, "y": data.y, "memory": data.memory,
            "mask": data.mask, "asked": data.asked, "asked_mask": data.asked_mask,
            "noise": CONTENT_NOISE * torch.randn(data.x.shape, generator=self._generator),
            "hide": self.networks.prior.draw_hidden(blank, self._generator),
        }  # fmt: skip

    def _norm_items(self, data: GuidedBeats) -> dict[str, Tensor]:
        """Draw what each NORM record's twin is asked for, and its gate and codes, from what is public by now."""
        classes = torch.randint(1, len(SUPERCLASSES), (len(data),), generator=self._generator)
        seen = self._known + _UNSEEN * torch.from_numpy(statement_classes())
        asked = requests(named(draw_statements(seen, classes, self._generator)), self.config.text)
        tokens, mask = asked.tokens, asked.mask
        symbols = self.networks.prior.sample(data.covariates, data.valid, tokens, mask, self._generator)
        return {
            "x": data.x, "covariates": data.covariates, "valid": data.valid, "memory": data.memory, "mask": data.mask,
            "asked": tokens, "asked_mask": mask, "symbols": symbols,
            "wanted": F.one_hot(classes, len(SUPERCLASSES)).float(),
        }  # fmt: skip
