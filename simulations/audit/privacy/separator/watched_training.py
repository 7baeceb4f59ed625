"""A private training of the separator as an adversary sees it who sees everything: the real rounds, at one site.

What the accounting gives away is the noised sum of every step, and those of the counts. A step's is read off the
gradients that the optimiser is given, and the weights, before each step and at the end, have to be what AdamW makes of
these (``reference``): so whatever moves the weights is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lavq_core.models.codebook import CodebookState, merge_statistics
from lavq_core.models.feature_detector import FeatureDetector
from lavq_core.models.networks import make_networks
from lavq_core.privacy.patient_gradients import Items, Loss, Weights
from lavq_core.privacy.plan import Plan
from lavq_core.settings import Config
from lavq_core.training.guided import GuidedBeats
from lavq_core.training.local_steps import Round
from lavq_core.training.private_losses import PatientLosses
from lavq_core.training.private_round import SeparatorRelease, separator_round
from lavq_core.training.private_separator import PrivateSeparatorTrainer
from server.app import initial_model
from simulations.audit.privacy.separator.canaries import LENGTH, Participants, WatchedBeats
from simulations.audit.privacy.separator.reference import Optimised, flat
from simulations.audit.privacy.watched_training import seeded


@dataclass(frozen=True)
class WatchedStep:
    """One step."""

    losses: PatientLosses  # its loss of an item, by weights
    at: Tensor  # (d,) float32, all weights before it
    gradient: Tensor  # (d,) float32, noised sum over a public number, as the optimiser was given it
    items: tuple[tuple[bool, Items], ...]  # abnormal ones and others, of whoever took part


@dataclass(frozen=True)
class WatchedCounts:
    """The noised counts of a round."""

    networks: dict[str, Tensor]  # with which they were counted
    codes: Tensor  # (K, D)
    released: Tensor  # (c,) float64


@dataclass(frozen=True)
class WatchedTraining:
    """Everything that a private training of the separator releases."""

    steps: list[WatchedStep]
    counts: list[WatchedCounts]
    unexplained: list[str]  # what moved or left and is no function of the released sums


class WatchedTrainer(PrivateSeparatorTrainer):
    """The real trainer, which writes its steps down; canaries have their own loss."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.seen: list[WatchedStep] = []
        self._items: list[tuple[bool, Items]] = []

    def step(self, data: GuidedBeats, owner: Tensor, rows: Tensor) -> None:
        """Take a step."""
        at, self._items = flat(self.losses), []
        super().step(data, owner, rows)
        given = [
            value.new_zeros(value.shape) if value.grad is None else value.grad for value in self.losses.parameters()
        ]
        gradient = torch.cat([value.detach().flatten() for value in given])
        self.seen.append(WatchedStep(self.losses, at, gradient, tuple(self._items)))

    def items(self, data: GuidedBeats, abnormal: bool) -> dict[str, Tensor]:
        """Make items that know their record."""
        assert isinstance(data, WatchedBeats)
        made = super().items(data, abnormal) | {"row": data.row, "axis": data.axis}
        self._items.append((abnormal, made))
        return made

    def loss(self, abnormal: bool) -> Loss:
        """Return the loss of an item: a canary's is ``LENGTH`` times its weight."""
        real = super().loss(abnormal)

        def loss(weights: Weights, item: Items) -> Tensor:
            every = torch.cat([value.flatten() for value in weights.values()])  # (d,)
            own = LENGTH * every.gather(0, item["axis"].clamp_min(0).view(1)).squeeze(0)
            return torch.where(item["axis"] >= 0, own, real(weights, item))

        return loss


def watch_training(config: Config, plan: Plan, people: Participants, size: float) -> WatchedTraining:
    """Train separator, editor, prior network and codes privately at one site, all rounds.

    Every generator that a program might take noise from by mistake starts from the run's seed, as it does in a run.

    Args:
        config: all its rounds are trained.
        plan: of ``config``.
        people: who is trained on.
        size: the public number of patients.
    """
    start, rounds = initial_model(config), config.federation.rounds
    detector = FeatureDetector(config.data.sampling_rate)
    detector.load_state_dict(start.detector)
    networks, codebook = make_networks(config, config.run.seed), start.codebook
    reference = Optimised(networks, codebook, config, total=rounds * config.separator_training.steps)
    site, kept = _Site(config, people.beats, people.owner), dict[str, Tensor]()
    steps, counts, unexplained = [], [], []
    with seeded(config.run.seed):
        for number in range(1, rounds + 1):
            trainers: list[WatchedTrainer] = []
            released: list[Tensor] = []

            def make(*given: Any, made: list[WatchedTrainer] = trainers, **named: Any) -> WatchedTrainer:
                made.append(WatchedTrainer(*given, **named))
                return made[-1]

            release = separator_round(
                site,
                networks,
                codebook,
                detector,
                plan,
                size,
                Round("audit", number, rounds),
                kept,
                make_trainer=make,
                watch=released.append,
            )
            unexplained += [
                f"round {number}: {said}" for said in _unexplained(reference, trainers[0].seen, codebook, release)
            ]
            steps += trainers[0].seen
            state = {name: value.clone() for name, value in networks.state_dict().items()}
            counts.append(WatchedCounts(state, release.codes, released[0]))
            networks.load_state_dict(dict(release.networks), strict=False)  # as a server that takes what comes
            codebook, kept = merge_statistics(codebook, [release.statistics], config.codebook.decay), release.kept
    return WatchedTraining(steps, counts, unexplained)


def _unexplained(
    reference: Optimised, steps: Sequence[WatchedStep], codebook: CodebookState, release: SeparatorRelease
) -> list[str]:
    """Name what a round has moved or let go and is not what its released sums make."""
    reference.start_round(codebook["codes"])
    wrong: list[str] = []
    for number, step in enumerate(steps, start=1):
        if not wrong and reference.differs(step.at):
            wrong.append(f"before step {number} weights have moved otherwise than the released sums make them")
        reference.step(step.gradient)
    return wrong + reference.leaving_reasons(release.networks, release.codes)


@dataclass(frozen=True)
class _Site:
    """Whoever is trained on, as ``separator_round`` wants them."""

    config: Config
    beats: GuidedBeats
    beat_owners: Tensor
