"""An audit of the private training of the separator itself: canaries in the real steps, exact tests of its noise.

The adversary is the one of the accounting: it knows everybody but the canaries and sees every released sum; which steps
a canary would have taken part in it does not know. Of each it asks whether it was trained on, by the likelihood ratio
of what is left in the canary's weight over all steps. A second attack trains again with the run's public seed, and
takes away the noise that comes back. The exact tests know more: who took part.

A run's own steps would take as long as they took. So the training that is audited is a short one, of the run's settings
and its whole claim: fewer steps, each with as much less noise as the plan gives it for that.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lavq_core.errors import DataError
from lavq_core.models.codebook import initial_codebook
from lavq_core.models.networks import beat_tokens, make_networks
from lavq_core.privacy.plan import make_plan
from lavq_core.settings import Config
from lavq_core.training.private_losses import PatientLosses
from lavq_core.training.site_data import SiteData
from simulations.audit.privacy.noise_check import (
    Finding,
    each_test,
    noise_scale,
    normal_test,
    parts_test,
    repeat_test,
    scale_test,
    sum_tests,
)
from simulations.audit.privacy.one_run import Attack
from simulations.audit.privacy.sampling_check import sampled_ratio, sampling_tests
from simulations.audit.privacy.separator.canaries import GradientCanaries, Participants, together
from simulations.audit.privacy.separator.seen import Seen, seen
from simulations.audit.privacy.separator.watched_training import watch_training
from simulations.audit.privacy.step_audit import CANARIES, EXACT, WITH_MANY, StepAudit

MOST_KNOWN = 40  # patients besides
ROUNDS, MOST_STEPS = 2, 20  # of the audited training, and of each round


def audit_separator_step(
    config: Config,
    site: SiteData,
    seed: int,
    confidence: float = 0.95,
    canaries: int = CANARIES,
    with_many: int = WITH_MANY,
) -> StepAudit:
    """Train separator, editor, prior network and codes of ``config`` privately on some patients and canaries.

    Args:
        config: of a private run that trains them.
        site: whose patients are known to the adversary; some, where there are many.
        seed: of the canaries and their coins; noise and sampling do not follow it.
        confidence: of the lower bound.
        canaries: how many, half of which are trained on.
        with_many: how many of them have ten records each.

    Raises:
        DataError: no record of the site has beats of one shape.
    """
    short = shortened(config)
    plan, tensors = make_plan(short, ROUNDS), _tensors(short)
    assert plan.separator is not None
    steps = plan.separator.steps
    made = GradientCanaries.draw(canaries, with_many, list(tensors.values()), seed)
    people = _with_canaries(site, made)
    trainings = [watch_training(short, plan, people, float(len(people.patients))) for _ in range(2)]
    ours, theirs = (seen(short, plan.separator, people, made, training) for training in trainings)

    left = ours.noise.copy()  # what is left where all but the canaries are known
    left[:, made.axis] += ours.canaries
    attacks = [
        Attack(f"separator's {name} of {kind}", score[rows], made.included[rows])
        for name, score in (
            ("canaries", canary_scores(made, left, steps.noise_multiplier, steps.sample_rate)),
            (
                "canaries, against a replay",
                canary_scores(made, left - theirs.noise, steps.noise_multiplier, steps.sample_rate),
            ),
        )
        for kind, rows in made.kinds().items()
    ]
    findings = [
        *check_steps(ours, theirs, tensors),
        *check_patients(ours, made),
        *sampling_tests(ours.took_part, steps.sample_rate, theirs.took_part),
        *check_counts(ours, theirs),
    ]
    noise = noise_scale(ours.noise)
    return StepAudit.of(config.privacy, canaries, attacks, findings, noise, trainings[0].unexplained, confidence)


def shortened(config: Config) -> Config:
    """Take the settings of a run for a training of a few steps: all of its claim, in two rounds."""
    training = config.separator_training
    return replace(
        config,
        federation=replace(config.federation, rounds=ROUNDS),
        separator_training=replace(training, after=0.0, steps=min(training.steps, MOST_STEPS)),
    )


def canary_scores(canaries: GradientCanaries, left: np.ndarray, noise_multiplier: float, rate: float) -> np.ndarray:
    """Log likelihood ratio that each canary was trained on: ``(m,)``.

    How much a step is worth depends on its real noise, which the adversary reads off the weights without a canary.

    Args:
        canaries: m of them, fewer than there are weights.
        left: ``(T, d)`` released sums without everybody known, in units of the promised noise.
        noise_multiplier: a canary adds one over it to its weight in a step of which it takes part.
        rate: chance that it does.
    """
    free = np.setdiff1d(np.arange(left.shape[1]), canaries.axis)
    variance = np.maximum(np.square(left[:, free]).mean(axis=1, dtype=np.float64), EXACT)[:, None]  # (T, 1)
    adds, found = 1.0 / noise_multiplier, left[:, canaries.axis].astype(np.float64)  # (T, m)
    return sampled_ratio((adds * found - adds**2 / 2) / variance, rate)


def check_steps(ours: Seen, theirs: Seen, tensors: dict[str, int]) -> list[Finding]:
    """Test the noise of the steps of a training and of its replay; ``tensors`` are names and numbers of weights."""
    name = "separator's steps"
    return [
        scale_test(name, ours.noise),
        normal_test(name, ours.noise),
        each_test(f"{name}'", ours.noise, axis=0),
        each_test(f"{name}'", ours.noise, axis=1),
        parts_test(name, ours.noise, tensors),
        repeat_test(name, ours.noise),
        repeat_test(f"{name} of a replay", ours.noise, theirs.noise),
    ]


def check_patients(ours: Seen, canaries: GradientCanaries) -> list[Finding]:
    """Test that every group of patients is in the sums of the steps once."""
    findings = sum_tests(ours.noise, {"real patients in the separator's steps": ours.known})
    for kind, rows in canaries.kinds().items():
        added = {f"canaries of {kind} in the separator's steps": ours.canaries[:, rows]}
        findings += sum_tests(ours.noise[:, canaries.axis[rows]], added)
    return findings


def check_counts(ours: Seen, theirs: Seen) -> list[Finding]:
    """Test the noise of the counts, and that every group of patients has counted once."""
    name = "codebook's counts"
    return [
        scale_test(name, ours.counts),
        normal_test(name, ours.counts),
        repeat_test(name, ours.counts),
        repeat_test(f"{name} of a replay", ours.counts, theirs.counts),
        *sum_tests(ours.counts, ours.counted),
    ]


def _tensors(config: Config) -> dict[str, int]:
    """Names and sizes of all that is trained, in the order of training."""
    codebook = initial_codebook(config.codebook, beat_tokens(config), config.run.seed)
    losses = PatientLosses(make_networks(config, config.run.seed), codebook["codes"], None, config)
    return {name.removeprefix("networks."): value.numel() for name, value in losses.named_parameters()}


def _with_canaries(site: SiteData, canaries: GradientCanaries) -> Participants:
    if len(site.beats) == 0:
        raise DataError(f"no training record of site {site.name} has beats of one shape: nothing trains a separator")
    known = (site.beat_owners < MOST_KNOWN).nonzero().flatten()
    return together(site.beats.take(known), site.beat_owners[known], canaries)
