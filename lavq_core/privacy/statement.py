"""What a trained model may claim about privacy, in one sentence with its numbers and what it does not cover."""

from __future__ import annotations

from collections.abc import Sequence

from lavq_core.privacy.accounting import Mechanism
from lavq_core.privacy.plan import make_plan, planned_epsilon
from lavq_core.settings import Config

OFF = (
    "Trained without differential privacy: no bound on what the shared detector, codebook and networks reveal about a "
    "patient is claimed. The membership-inference audit says what attacks find."
)
_NOT_COVERED = (
    "a patient who is known to two hospitals (each protects its own), other releases of the same patients outside this "
    "run (each site's ledger adds them up), that a site took part and when, settings chosen beforehand on the same "
    "data, and what stays on site (twins, predictions, calibration)"
)


def privacy_statement(config: Config) -> str:
    """Write the sentence for a run that took all its rounds."""
    if config.privacy.epsilon == 0:
        return OFF
    rounds, privacy = config.federation.rounds, config.privacy
    plan, epsilon = make_plan(config, rounds), planned_epsilon(config, rounds)
    size, centre, detector, *further = plan.whole()
    return (
        f"({epsilon:.2f}, {privacy.delta:g})-differentially private, add or remove one patient of a site, for every "
        f"site and over all {rounds} rounds; releases: {_said(size, 'the number of patients')}, "
        f"{_said(centre, 'the sum of their descriptions')}, "
        f"{_said(detector, f'gradient sums of the detector clipped to {privacy.clipping_norm:g} a patient')}"
        f"{''.join(f', {said}' for said in _separator(config, further))}; "
        f"{'elsewhere ' if further else ''}{_sampling(detector)}; PRV accountant; not covered: {_NOT_COVERED}"
        f"{_pretrained(config)}."
    )


def _pretrained(config: Config) -> str:
    """Say whose ECGs were taken to be public; nothing where none were."""
    detector, what = config.detector, []
    if detector.pretrained:
        what.append(f"the pre-trained network (sha256 {detector.pretrained_sha256[:16]})")
    if detector.start:
        what.append("the head at the start")
    if not what:
        return ""
    return (
        f", and whoever {' and '.join(what)} learned from: these ECGs count as public, so none of their patients may "
        "be a site's patient"
    )


def _separator(config: Config, further: Sequence[Mechanism]) -> list[str]:
    """Say what training the separator releases; nothing where it does not train."""
    if not further:
        return []
    steps, counts = further
    by_gradient = config.privacy.codebook == "gradient"
    networks = f"separator, editor, prior network{' and codebook' if by_gradient else ''}"
    what = "counts of codes, places and statements" + ("" if by_gradient else " with sums of latents")
    clip = config.privacy.separator_clipping_norm
    steps_said = _said(steps, f"gradient sums of {networks} clipped to {clip:g} a patient")
    return [f"{steps_said} with {_sampling(steps)}", _said(counts, what)]


def _said(mechanism: Mechanism, what: str) -> str:
    times = f"{mechanism.steps} " if mechanism.steps > 1 else ""
    return f"{times}{what} (noise multiplier {mechanism.noise_multiplier:.3g})"


def _sampling(mechanism: Mechanism) -> str:
    if mechanism.sample_rate == 1:
        return "every patient in every step, no sampling"
    return f"Poisson sampling of patients at rate {mechanism.sample_rate:g}"
