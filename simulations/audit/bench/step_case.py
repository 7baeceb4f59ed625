"""Cases of the test bench in which a private training step is audited, with something planted in it or nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from simulations.audit.bench.case import Case, Outcome
from simulations.audit.privacy.step_audit import StepAudit

Planted = Callable[[], AbstractContextManager[Any]]
"""A bug: a context in which one function of the training is replaced; ``nullcontext`` where nothing is planted."""

Play = Callable[[str, Planted, int, float], StepAudit]
"""Audit a training of a preset of privacy, by preset, what is planted, seed and confidence."""

GUILTY_CONFIDENCE, INNOCENT_CONFIDENCE = 0.95, 0.99


def step_case(
    play: Play, claimed: float, name: str, what: str, planted: Planted, preset: str, repeats: int, by_noise: bool
) -> Case:
    """Make a case; who is called ``planted/`` has to be convicted, and everybody else acquitted at more confidence.

    Args:
        play: see ``Play``.
        claimed: the preset's epsilon.
        name, what, repeats: see ``Case``.
        planted, preset: what is played.
        by_noise: the exact tests have to convict, not the canaries.
    """
    guilty = name.startswith("planted/")
    confidence = GUILTY_CONFIDENCE if guilty else INNOCENT_CONFIDENCE

    def played(seed: int) -> Sequence[Outcome]:
        return outcomes(play(preset, planted, seed, confidence), by_noise)

    return Case(name, what, guilty, claimed, repeats, played)


def outcomes(audit: StepAudit, by_noise: bool) -> Sequence[Outcome]:
    """Both figures of a play, first the one that has to convict."""
    bound, noise = audit.epsilon_lower_bound, audit.noise
    found = (
        Outcome("epsilon_lower_bound", bound, bound, bound, audit.canaries, audit.beyond_claim),
        Outcome("noise_ratio", noise.ratio, noise.low, noise.high, audit.canaries, audit.noise_refuted),
    )
    return found[::-1] if by_noise else found
