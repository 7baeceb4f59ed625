"""A private training of the head as an adversary sees it who sees everything: the real code, round by round, one site.

What the accounting gives away is every noised sum: number of patients, centre, and each step of each round. Steps are
read off the weights and not off the sums that the code says it has released, so whatever moves the weights is seen.
"""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lavq_core.models.feature_detector import NORM, FeatureDetector
from lavq_core.privacy.accounting import Mechanism
from lavq_core.privacy.ledger import Ledger
from lavq_core.privacy.plan import make_plan
from lavq_core.settings import Config
from lavq_core.training.feature_round import feature_round
from lavq_core.training.head_training import PatientItems
from lavq_core.training.local_steps import Round
from simulations.audit.privacy.head_reference import Head, centre_sum, gradient_sums, shares, standardised

_FLOAT32 = 1e-4  # relative: what an end of round may differ from the running mean of its steps


@dataclass(frozen=True)
class Sums:
    """The sums of one training: as released, as they are without noise, or in units of the noise."""

    size: float  # patients
    centre: Tensor  # (SIZE,)
    steps: Tensor  # (T, 5, SIZE + 1), of all rounds

    def minus(self, other: Sums) -> Sums:
        """Subtract, one by one."""
        return Sums(self.size - other.size, self.centre - other.centre, self.steps - other.steps)

    def over(self, scales: Scales) -> Sums:
        """Divide by the noise that was promised."""
        return Sums(self.size / scales.size, self.centre / scales.centre, self.steps / scales.steps)


@dataclass(frozen=True)
class Scales:
    """Standard deviations of the noise that a plan promises."""

    size: float
    centre: float
    steps: float

    @classmethod
    def of(cls, config: Config) -> Scales:
        """Read a run's plan."""
        plan = make_plan(config, config.federation.rounds)
        steps = plan.detector.noise_multiplier * config.privacy.clipping_norm
        return cls(plan.size.noise_multiplier, plan.centre.noise_multiplier * NORM, steps)


@dataclass(frozen=True)
class WatchedTraining:
    """Everything that a private training releases."""

    released: Sums
    centre: Tensor  # (SIZE,) float32, as the head uses it
    weights: Tensor  # (T, 5, SIZE + 1) float64, where each step was taken
    took_part: Tensor  # (T, patients) bool
    mechanisms: list[Mechanism]  # as the ledger has them
    unexplained: list[str]  # what left and is no function of the released sums

    def clean(self, items: PatientItems, head: Head, numbers: np.ndarray | None = None) -> Sums:
        """What the sums of some patients are without noise, at the weights that this training went through.

        Args:
            items: of those patients.
            head: how it is trained.
            numbers: ``(p,)`` int64, which patients of the training they are; None: the first ones.
        """
        seen = standardised(items.x, self.centre)
        which = items.owner if numbers is None else torch.from_numpy(numbers)[items.owner]
        present = self.took_part[:, which]  # (T, n)
        steps = gradient_sums(seen, items.y, shares(items) * present, self.weights, head)
        return Sums(float(len(items.owner.unique())), centre_sum(items), steps)


def watch_training(config: Config, items: PatientItems) -> WatchedTraining:
    """Train a private head on one site's patients, all rounds, with a ledger of its own.

    Every generator that a program might take noise from by mistake starts from the run's seed, as it does in a run.
    """
    rounds, head = config.federation.rounds, Head.of(config)
    at, sums, present, unexplained = [], [], [], []
    size, centre = 0.0, torch.zeros(0)
    with tempfile.TemporaryDirectory() as folder, seeded(config.run.seed):
        model = FeatureDetector(config.data.sampling_rate)
        ledger = Ledger(Path(folder) / "ledger.jsonl", "audit", math.inf, config.privacy.delta)
        for number in range(1, rounds + 1):
            start = model.head.weight.detach().clone()
            seen: list[tuple[Tensor, Tensor]] = []
            place = Round("audit", number, rounds)
            update = feature_round(model, items, config, place, ledger, watch=lambda *step, to=seen: to.append(step))
            if number == 1:
                size, centre = update.size, model.centre.clone()
                expected = {"centre": centre, "head.weight": start}
            else:
                path = torch.stack([start, *(weights for weights, _ in seen)]).double()  # (steps + 1, 5, SIZE + 1)
                at.append(path[:-1])
                present += [who for _, who in seen]
                sums.append(_sums_of(path, head, size))
                expected = {"centre": centre, "head.weight": head.running_mean(path[1:])}
            unexplained += _unexplained(update.detector, expected, number)
            if update.size != size:
                unexplained.append(f"round {number}: another number of patients")
            model.load_state_dict(dict(update.detector))
        mechanisms = [mechanism for entry in ledger.entries for mechanism in entry.mechanisms]
    released = Sums(size, centre.double() * size, torch.cat(sums))
    return WatchedTraining(released, centre, torch.cat(at), torch.stack(present), mechanisms, unexplained)


def _sums_of(path: Tensor, head: Head, size: float) -> Tensor:
    """Take a round's released sums back out of the weights between its steps."""
    velocity = (path[:-1] - path[1:]) / head.lr  # (steps, 5, SIZE + 1)
    before = torch.cat([torch.zeros_like(velocity[:1]), velocity[:-1]])
    return (velocity - head.momentum * before) * (head.rate * size)


def _unexplained(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], number: int) -> list[str]:
    """Name what left a round and is not what its released sums make."""
    wrong = [f"round {number}: {name} has left" for name in state if name not in expected]
    for name, value in expected.items():
        scale = float(value.abs().max()) or 1.0
        if name not in state or not torch.allclose(state[name].double(), value.double(), rtol=0, atol=_FLOAT32 * scale):
            wrong.append(f"round {number}: {name} is not what the released sums make")
    return wrong


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Start all public generators from a seed, and put them back afterwards."""
    theirs, ours = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(theirs)
            np.random.set_state(ours)
