"""An audit of the private training of the head itself: canaries in the real steps, and exact tests of its noise.

The adversary is the one of the accounting: it knows everybody but the canaries, sees every released sum, and asks of
each canary whether it took part. Its score is a log likelihood ratio, summed over all releases (a matched filter): the
inner product of the canary's contribution with what is left of the released sum when everybody known is taken away.
A second attack trains again with the run's public seed and without canaries, and takes away the noise that comes back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lavq_core.models.feature_detector import NORM
from lavq_core.privacy.accounting import Mechanism, epsilon_of
from lavq_core.privacy.plan import make_plan
from lavq_core.settings import Config
from lavq_core.signals.description import SIZE
from lavq_core.training.head_training import PatientItems
from simulations.audit.privacy.canaries import Canaries, together
from simulations.audit.privacy.fdp import gaussian_epsilon
from simulations.audit.privacy.head_reference import Head
from simulations.audit.privacy.noise_check import (
    Finding,
    NoiseScale,
    each_test,
    noise_scale,
    normal_test,
    repeat_test,
    scale_test,
    size_test,
    sum_tests,
)
from simulations.audit.privacy.one_run import Attack
from simulations.audit.privacy.sampling_check import sampled_ratio, sampling_tests
from simulations.audit.privacy.step_audit import CANARIES, EXACT, WITH_MANY, StepAudit
from simulations.audit.privacy.watched_training import Scales, Sums, WatchedTraining, watch_training

MOST_KNOWN = 2000  # patients besides: more hide no canary from whoever knows them, and take time
_ROUNDING = 0.02  # of an epsilon: accountants of other methods agree within it


def audit_training_step(
    config: Config,
    items: PatientItems,
    seed: int,
    confidence: float = 0.95,
    canaries: int = CANARIES,
    with_many: int = WITH_MANY,
) -> StepAudit:
    """Train a private head of ``config`` on some patients and canaries, and attack it.

    Args:
        config: of a private run; all its rounds are trained, at one site.
        items: described records of real patients, known to the adversary; some, where there are many.
        seed: of the canaries and their coins; the noise does not follow it.
        confidence: of the lower bound.
        canaries: how many, half of which take part.
        with_many: how many of them have ten records each.

    """
    head, scales = Head.of(config), Scales.of(config)
    items = _some(items)
    made = Canaries.draw(canaries, with_many, seed)
    everybody = together(items, made.records_of(made.included))
    training, replay = watch_training(config, everybody), watch_training(config, everybody)
    known, adds = training.clean(items, head), made.signals(training.weights, training.centre, head)
    other = replay.released.minus(replay.clean(everybody, head)).over(scales)
    left = training.released.minus(known).over(scales)
    scores = {
        "canaries": canary_scores(made, adds, left, scales, head.rate),
        "canaries, against a replay": canary_scores(made, adds, left.minus(other), scales, head.rate),
    }
    kinds = made.kinds()
    attacks = [
        Attack(f"{name} of {kind}", score[rows], made.included[rows])
        for name, score in scores.items()
        for kind, rows in kinds.items()
    ]
    numbers = items.patients + np.cumsum(made.included) - 1  # of the canaries that are in, after all real patients
    groups = {"real patients": known} | {
        f"patients of {kind}": training.clean(made.alone(made.included & rows), head, numbers[made.included & rows])
        for kind, rows in kinds.items()
    }
    findings, noise = check_noise(left, other, {name: sums.over(scales) for name, sums in groups.items()})
    findings += sampling_tests(training.took_part.numpy(), head.rate, replay.took_part.numpy())
    further = [*training.unexplained, *cost_reasons(config, training)]
    return StepAudit.of(config.privacy, canaries, attacks, findings, noise, further, confidence)


def canary_scores(canaries: Canaries, adds: Tensor, left: Sums, scales: Scales, rate: float) -> np.ndarray:
    """Log likelihood ratio that each canary was trained on: ``(m,)``.

    How much a release is worth depends on its real noise, which the adversary reads off the axes without a canary: of
    20 steps one without noise decides alone.

    Args:
        canaries: m of them, fewer than there are axes.
        adds: ``(T, m, 5)``, what each adds to its column of every step's sum.
        left: released sums without everybody known, in units of the promised noise.
        scales: that noise.
        rate: chance of a patient to take part in a step.
    """
    axis = torch.from_numpy(canaries.axis)
    free = torch.from_numpy(np.setdiff1d(np.arange(SIZE), canaries.axis))
    steps = left.steps[:, :, free].square().mean(dim=(1, 2)).clamp_min(EXACT)[:, None, None]  # (T, 1, 1) variances
    centre = left.centre[free].square().mean().clamp_min(EXACT)
    adds = adds / scales.steps
    found = left.steps[:, :, axis].transpose(1, 2)  # (T, m, 5)
    to_centre = NORM / scales.centre
    ratios = ((adds * found - adds.square() / 2) / steps).sum(dim=2)  # (T, m)
    return sampled_ratio(ratios.numpy(), rate) + ((to_centre * left.centre[axis] - to_centre**2 / 2) / centre).numpy()


def check_noise(left: Sums, other: Sums, groups: dict[str, Sums]) -> tuple[list[Finding], NoiseScale]:
    """Test the noise of a training and of its replay, both in units of what the plan promises.

    Args:
        left: released sums without the known patients.
        other: of the replay: noise and nothing else.
        groups: clean sums of all groups of patients, the known ones first.
    """
    noise = left
    for sums in list(groups.values())[1:]:
        noise = noise.minus(sums)
    ours, theirs = _flat(noise.steps), _flat(other.steps)  # (T, d)
    centres = torch.stack([noise.centre, other.centre]).numpy()  # (2, SIZE)
    findings = [
        size_test([noise.size, other.size]),
        scale_test("centre", centres[:1]),
        scale_test("steps", ours),
        normal_test("centre", centres[:1]),
        normal_test("steps", ours),
        each_test("steps'", ours, axis=0),
        each_test("steps'", ours, axis=1),
        repeat_test("steps", ours),
        repeat_test("steps of a replay", ours, theirs),
        repeat_test("centres of a replay", centres),
        *sum_tests(ours, {name: _flat(sums.steps) for name, sums in groups.items()}),
    ]
    return findings, noise_scale(ours)


def cost_reasons(config: Config, training: WatchedTraining) -> list[str]:
    """Say where the ledger has other mechanisms than the plan, or such as cost more than is claimed."""
    rounds, reasons = config.federation.rounds, []
    plan = make_plan(config, rounds)
    planned = [mechanism for number in range(1, rounds + 1) for mechanism in plan.of_round(number, sized=number > 1)]
    if training.mechanisms != planned:
        reasons.append("the ledger holds other mechanisms than the plan")
    if (cost := cost_of(planned, config.privacy.delta)) > config.privacy.epsilon * (1 + _ROUNDING):
        reasons.append(f"the plan's noise costs epsilon {cost:.2f}, and {config.privacy.epsilon:g} is claimed")
    return reasons


def cost_of(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """Epsilon of mechanisms: by closed form where nobody is sampled, so that no accountant is trusted in vain."""
    if any(one.sample_rate < 1 for one in mechanisms):
        return epsilon_of(mechanisms, delta)
    return gaussian_epsilon(math.sqrt(sum(one.steps / one.noise_multiplier**2 for one in mechanisms)), delta)


def _some(items: PatientItems) -> PatientItems:
    """Some patients, by the fixed part of their description: canaries have no ECG that a network could read."""
    rows = items.owner < MOST_KNOWN
    return PatientItems.of(items.x[rows, :SIZE], items.y[rows], items.owner[rows].numpy())


def _flat(steps: Tensor) -> np.ndarray:
    """One row a step: ``(T, 5 (SIZE + 1))``."""
    return steps.flatten(1).numpy()
