"""The separator's private sums once more, from their definition: what an auditor holds against what was released.

Of the audited code the loss of one item and the vector that one record counts are used, on one record at a time and by
plain backward, so that nothing of another patient can enter. Whatever training does with a batch (who takes part,
clipping, sums, divisors) is not taken from there, nor is what the optimiser makes of a gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from lavq_core.models.codebook import CodebookState
from lavq_core.models.networks import Networks, make_networks
from lavq_core.privacy.patient_gradients import Items
from lavq_core.settings import Config
from lavq_core.training.private_losses import PatientLosses
from lavq_core.training.private_statistics import contributions
from lavq_core.training.separator_training import scheduled_rate
from simulations.audit.privacy.separator.canaries import Participants

_NOT_MADE = "is not what the released sums make"
_FLOAT32 = 1e-4  # relative: what weights may differ from those of a second computation


def flat(losses: PatientLosses) -> Tensor:
    """All weights that are trained, one after another: ``(d,)`` float32."""
    return torch.cat([value.detach().flatten() for value in losses.parameters()])


def gradient_sum(
    losses: PatientLosses, at: Tensor, items: Sequence[tuple[bool, Items]], owner: Tensor, real: int, clip: float
) -> Tensor:
    """Sum of the clipped gradients of the real patients who take part in a step: ``(d,)`` float64.

    Args:
        losses: of an item.
        at: ``(d,)``, weights.
        items: of all who take part, abnormal ones and others.
        owner: patient of each record, ``(n,)``.
        real: patients below this number are real ones.
        clip: C.
    """
    weights = _named(at, losses)
    found: dict[int, list[Tensor]] = {}
    for abnormal, made in items:
        for i, row in enumerate(made["row"].tolist()):
            if (patient := int(owner[row])) < real:
                loss = functional_call(losses, weights, ({name: value[i] for name, value in made.items()}, abnormal))
                own = torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)
                found.setdefault(patient, []).append(torch.cat([value.flatten() for value in own]).double())
    total = torch.zeros(len(at), dtype=torch.float64)
    for gradients in found.values():
        mean = torch.stack(gradients).mean(dim=0)
        if bool(mean.isfinite().all()):
            total += mean * (clip / mean.norm().clamp_min(1e-12)).clamp_max(1.0)
    return total


def _named(weights: Tensor, losses: PatientLosses) -> dict[str, Tensor]:
    parts = weights.split([value.numel() for value in losses.parameters()])
    return {
        name: part.reshape(value.shape).clone().requires_grad_(True)
        for (name, value), part in zip(losses.named_parameters(), parts, strict=True)
    }


def count_sums(
    networks: Mapping[str, Tensor], codes: Tensor, people: Participants, groups: Sequence[Tensor], config: Config
) -> Tensor:
    """Sum what the patients of each group count: ``(groups, c)`` float64.

    Args:
        networks: with which records are counted.
        codes: ``(K, D)``.
        people: everybody; a canary counts what the record counts of which it is a copy.
        groups: numbers of patients.
        config: the run's.
    """
    counting = make_networks(config, config.run.seed)
    counting.load_state_dict(dict(networks))
    abnormal = set(people.beats.abnormal().tolist())
    copied = people.copy_of[people.beats.abnormal()].unique().tolist()
    own = {row: _at_most_1(contributions(counting, codes, people.beats.take(torch.tensor([row])), config)[0])
           for row in copied}  # fmt: skip
    totals = []
    for group in groups:
        total = torch.zeros_like(next(iter(own.values())))
        for patient in group.tolist():
            rows = (people.owner == patient).nonzero().flatten().tolist()
            for row in abnormal.intersection(rows):
                total += own[int(people.copy_of[row])] / len(rows)
        totals.append(total)
    return torch.stack(totals)


def _at_most_1(vector: Tensor) -> Tensor:
    return vector / vector.norm().clamp_min(1.0)


class Optimised:
    """What AdamW makes of gradients, over all rounds: PyTorch's own, with the rates and decays of the settings.

    Args:
        networks: as the first round starts from; they are not changed.
        codebook: the same.
        config: the run's.
        total: steps of all rounds.
    """

    def __init__(self, networks: Networks, codebook: CodebookState, config: Config, total: int) -> None:
        own = make_networks(config, config.run.seed)
        own.load_state_dict(networks.state_dict())
        self.networks, self.losses = own, PatientLosses(own, codebook["codes"], None, config)
        self._training, self._total, self._done = config.separator_training, total, 0
        decays = {"networks.prior.": self._training.prior_weight_decay, "codes": 0.0}
        groups = [
            {
                "params": [value],
                "weight_decay": next(
                    (decay for start, decay in decays.items() if name.startswith(start)), self._training.weight_decay
                ),
            }
            for name, value in self.losses.named_parameters()
        ]
        self._optimiser = torch.optim.AdamW(groups)

    def start_round(self, codes: Tensor) -> None:
        """Take over the broadcast codes ``(K, D)``."""
        with torch.no_grad():
            self.losses.codes.copy_(codes)

    def step(self, gradient: Tensor) -> None:
        """Take a step along ``(d,)``."""
        parts = gradient.split([value.numel() for value in self.losses.parameters()])
        for value, part in zip(self.losses.parameters(), parts, strict=True):
            value.grad = part.reshape(value.shape)
        for group in self._optimiser.param_groups:
            group["lr"] = scheduled_rate(self._training.lr, self._done, self._total)
        self._optimiser.step()
        if self.losses.learned:
            with torch.no_grad():
                self.losses.codes.copy_(F.normalize(self.losses.codes, dim=-1))
        self._done += 1

    def differs(self, weights: Tensor) -> bool:
        """Tell whether weights ``(d,)`` are others than these steps have made."""
        return not near(weights, flat(self.losses))

    def leaving_reasons(self, leaving: Mapping[str, Tensor], codes: Tensor) -> list[str]:
        """Say what of the networks and codes that leave a round is not what its steps have made."""
        own = self.networks.state_dict()
        wrong = [f"networks/{name} has left" for name in leaving if name not in own]
        known = {name: value for name, value in leaving.items() if name in own}
        wrong += [f"networks/{name} {_NOT_MADE}" for name, value in known.items() if not near(value, own[name])]
        return wrong + ([] if near(codes, self.losses.codes.detach()) else [f"what became of the codes {_NOT_MADE}"])


def near(first: Tensor, second: Tensor) -> bool:
    """Compare but for the rounding of float32."""
    scale = float(second.abs().max()) or 1.0
    return torch.allclose(first, second, rtol=0, atol=_FLOAT32 * scale)
