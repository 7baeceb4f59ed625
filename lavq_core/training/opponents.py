"""What a site's editor learns against: discriminator and beat classifier, and how they learn.

Both see the site's own real beats, stay on its disk from one round to the next, and never leave it. Each is left out
where its loss has no weight.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lavq_core.data.labels import diagnostic_statements
from lavq_core.models.beat_classifier import BeatClassifier
from lavq_core.models.discriminator import Discriminator, discriminator_loss
from lavq_core.settings import Config
from lavq_core.training.device import mixed_precision
from lavq_core.training.guided import GuidedBeats

_SEEN_NOISE = 0.02  # mV on the classifier's beats, so that it does not learn a small site's records by heart


class Opponents(nn.Module):
    """Discriminator and beat classifier of one configuration."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        weight, stride = config.separator_training.loss, config.separator.stride
        self.discriminator = Discriminator(config.text.width, stride) if weight.adversarial > 0 else None
        self.classifier = BeatClassifier(len(diagnostic_statements()), stride) if weight.statements > 0 else None

    def optimiser(self, lr: float) -> torch.optim.Optimizer | None:
        """Make the optimiser of both; None when there is neither."""
        groups = []
        if self.discriminator is not None:
            groups.append({"params": [*self.discriminator.parameters()], "betas": (0.5, 0.99), "weight_decay": 0.0})
        if self.classifier is not None:
            groups.append({"params": [*self.classifier.parameters()], "weight_decay": 1e-2})
        return torch.optim.AdamW(groups, lr=lr) if groups else None

    def losses(self, sick: GuidedBeats, healthy: GuidedBeats, twin: Tensor, healed: Tensor) -> dict[str, Tensor]:
        """Loss of each, real beats against made ones ``(B, 8, W)``; the made ones get no gradient."""
        found: dict[str, Tensor] = {}
        with mixed_precision(twin.device):
            if self.discriminator is not None:
                found["discriminator"] = self._told_apart(sick, twin.detach())
                found["discriminator"] = found["discriminator"] + self._told_apart(healthy, healed.detach())
            if self.classifier is not None:
                x = torch.cat([sick.x, healthy.x])
                told = self.classifier(x + _SEEN_NOISE * torch.randn_like(x))  # (2B, S)
                target = torch.cat([sick.statements, healthy.statements])
                found["classifier"] = F.binary_cross_entropy_with_logits(told.float(), target)
        return found

    def _told_apart(self, like: GuidedBeats, made: Tensor) -> Tensor:
        assert self.discriminator is not None
        real, fake = (self.discriminator(x, like.asked, like.asked_mask, like.y) for x in (like.x, made))
        return discriminator_loss(real, fake)
