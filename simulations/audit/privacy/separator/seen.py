"""A watched training of the separator beside what it should have released: what is left is noise, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lavq_core.privacy.plan import SeparatorPlan
from lavq_core.settings import Config
from simulations.audit.privacy.separator.canaries import GradientCanaries, Participants
from simulations.audit.privacy.separator.reference import count_sums, gradient_sum
from simulations.audit.privacy.separator.watched_training import WatchedTraining


@dataclass(frozen=True)
class Seen:
    """One training, all sums in units of their promised noise: T steps of d weights, R rounds of c counts."""

    took_part: np.ndarray  # (T, p) bool, of ``Participants.patients``
    noise: np.ndarray  # (T, d) float32, released sums without anybody's
    known: np.ndarray  # (T, d) float32, sums of the real patients
    canaries: np.ndarray  # (T, m) float32, what each canary has added to its weight
    counts: np.ndarray  # (R, c) float64, released counts without anybody's
    counted: dict[str, np.ndarray]  # (R, c) float64, what each group of patients has counted


def seen(
    config: Config, plan: SeparatorPlan, people: Participants, canaries: GradientCanaries, training: WatchedTraining
) -> Seen:
    """Put what a training has released beside what it should have, one step after another.

    Args:
        config: of the training.
        plan: of its separator.
        people: who was trained on; all of them count as the public number of patients.
        canaries: those who were, and others.
        training: as it was watched.
    """
    clip, patients = config.privacy.separator_clipping_norm, people.patients
    scale = plan.steps.noise_multiplier * clip
    divisor = plan.steps.sample_rate * len(patients)
    count, width = len(training.steps), len(training.steps[0].at)
    took_part = np.zeros((count, len(patients)), dtype=bool)
    noise, known = (np.zeros((count, width), dtype=np.float32) for _ in range(2))
    added = np.zeros((count, len(canaries.axis)), dtype=np.float32)
    for t, step in enumerate(training.steps):
        rows = torch.cat([torch.zeros(0, dtype=torch.int64), *(made["row"] for _, made in step.items)])
        present = people.owner[rows].unique().numpy()
        took_part[t] = np.isin(patients, present)
        added[t, present[present >= people.real] - people.real] = clip / scale
        own = gradient_sum(step.losses, step.at, step.items, people.owner, people.real, clip) / scale
        known[t], noise[t] = own.numpy(), (step.gradient.double() * divisor / scale - own).numpy()
    noise[:, canaries.axis] -= added
    counts, counted = _counted(config, plan, people, canaries, training)
    return Seen(took_part, noise, known, added, counts, counted)


def _counted(
    config: Config, plan: SeparatorPlan, people: Participants, canaries: GradientCanaries, training: WatchedTraining
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The noise of each round's counts, and what they should have held of each group of patients."""
    numbers = torch.from_numpy(np.flatnonzero(canaries.included))
    many = torch.from_numpy(canaries.records[numbers.numpy()] > 1)
    groups = {
        "real patients' counts": torch.arange(people.real),
        "counts of canaries of 1 record": people.real + numbers[~many],
        "counts of canaries of several records": people.real + numbers[many],
    }
    scale = plan.counts.noise_multiplier
    clean = torch.stack(
        [count_sums(one.networks, one.codes, people, list(groups.values()), config) / scale for one in training.counts]
    )  # (R, groups, c)
    released = torch.stack([one.released for one in training.counts]) / scale  # (R, c)
    counted = {name: clean[:, i].numpy() for i, name in enumerate(groups)}
    return (released - clean.sum(dim=1)).numpy(), counted
