"""What the audit of one private training says: a lower bound of epsilon from canaries, and exact tests of its noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lavq_core.settings import PrivacyConfig
from simulations.audit.privacy.fdp import gaussian_epsilon, mu_lower_bound
from simulations.audit.privacy.noise_check import Finding, NoiseScale, failures
from simulations.audit.privacy.one_run import Attack, Bound, best_bound

CANARIES, WITH_MANY = 1000, 200
"""Canaries of an audit, and those of them that have many records."""

EXACT = 1e-8
"""Least variance of a released sum, in units of the promised: below it the sum is as good as exact."""


@dataclass(frozen=True)
class StepAudit:
    """What the audit of one private training has shown."""

    bound: Bound
    claimed: float  # epsilon
    delta: float
    canaries: int
    noise: NoiseScale  # of all steps
    findings: tuple[Finding, ...]  # exact tests
    reasons: tuple[str, ...]  # why it is flagged, in words; empty where it is not

    @property
    def epsilon_lower_bound(self) -> float:
        """Epsilon is at least this, with ``confidence``."""
        return self.bound.epsilon

    @property
    def confidence(self) -> float:
        """Of the lower bound."""
        return self.bound.confidence

    @property
    def if_gaussian(self) -> float:
        """What the same guesses would show were all noise normal (``fdp``): a diagnostic, never a verdict."""
        return gaussian_epsilon(mu_lower_bound(self.bound.guesses, 1.0 - self.bound.alpha), self.delta)

    @property
    def beyond_claim(self) -> bool:
        """The bound lies above the claim: the canaries alone convict."""
        return self.bound.epsilon > self.claimed

    @property
    def noise_refuted(self) -> bool:
        """The exact tests convict: what was released is not the clipped sums with the promised noise."""
        return len(self.reasons) > self.beyond_claim

    @property
    def flagged(self) -> bool:
        """Whether the claim does not hold."""
        return bool(self.reasons)

    @classmethod
    def of(
        cls,
        privacy: PrivacyConfig,
        canaries: int,
        attacks: Sequence[Attack],
        findings: Sequence[Finding],
        noise: NoiseScale,
        further: Sequence[str],
        confidence: float,
    ) -> StepAudit:
        """Put an audit together.

        Args:
            privacy: what is claimed.
            canaries: how many there are.
            attacks: on them.
            findings: exact tests.
            noise: of all steps.
            further: other reasons to flag the training.
            confidence: of the lower bound.
        """
        bound = best_bound(attacks, privacy.delta, confidence)
        reasons = [*failures(findings), *further]
        if bound.epsilon > privacy.epsilon:
            said = f"epsilon is at least {bound.epsilon:.2f} ({confidence:.0%} confidence, {bound.attack})"
            reasons.insert(0, f"{said}, and {privacy.epsilon:g} is claimed")
        return cls(bound, privacy.epsilon, privacy.delta, canaries, noise, tuple(findings), tuple(reasons))
