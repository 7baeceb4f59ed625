"""Forward passes of separator and editor, and judges that say what they are told, for tests."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from lavq_core.models.codebook import initial_codebook, quantise
from lavq_core.models.detector import build_detector
from lavq_core.models.networks import Networks, beat_tokens
from lavq_core.settings import Config
from lavq_core.training.guided import GuidedBeats
from lavq_core.training.separator_losses import Pass

CPU = torch.device("cpu")
Seen = tuple[Pass, dict[str, Tensor]]
B = 5
NOBODY = SimpleNamespace(discriminator=None, classifier=None)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def codes_of(config: Config) -> Tensor:
    return initial_codebook(config.codebook, beat_tokens(config), 0)["codes"]


def judge_of(config: Config) -> nn.Module:
    return build_detector(config.detector, 100, 1).eval().requires_grad_(False)


def batch_of(records: GuidedBeats) -> tuple[GuidedBeats, GuidedBeats]:
    return records.take(records.abnormal()[:B], CPU), records.take(records.norm_only()[:B], CPU)


def pass_of(networks: Networks, codes: Tensor, sick: GuidedBeats, healthy: GuidedBeats) -> Pass:
    """A forward pass as in training, but for the noise on the content."""
    separator, editor = networks.separator, networks.editor
    found, nothing = (
        separator(part.x, part.covariates, part.valid, part.memory, part.mask) for part in (sick, healthy)
    )
    quantised, indices = quantise(found.latents, codes)
    healed = editor(sick.x, sick.covariates, found.gate, None)
    recomposed = healed + editor.change(healed, sick.covariates, found.gate, quantised)
    gate = found.gate * healthy.valid
    twin = editor(healthy.x, healthy.covariates, gate, quantised)
    again = editor(twin, healthy.covariates, gate, None)
    return Pass(sick, healthy, found, nothing, quantised, indices, healed, recomposed, gate, twin, again)


def each(batch: GuidedBeats) -> list[GuidedBeats]:
    return [batch.take(torch.tensor([i]), CPU) for i in range(len(batch))]


class Told(nn.Module):
    """A judge or discriminator that says what it was told to say, call by call, and keeps what it was asked."""

    def __init__(self, *answers: Tensor) -> None:
        super().__init__()
        self.answers, self.asked = list(answers), list[tuple[Tensor, ...]]()

    def forward(self, *given: Tensor) -> Tensor:
        self.asked.append(given)
        return self.answers.pop(0)
