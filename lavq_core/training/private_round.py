"""The separator's part of a private round at one site; the ledger's entry is written by ``feature_round``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from lavq_core.models.beat_judge import BeatJudge
from lavq_core.models.codebook import CodebookState, no_statistics
from lavq_core.models.feature_detector import FeatureDetector
from lavq_core.models.networks import Networks, beat_tokens
from lavq_core.privacy.guard import Parts
from lavq_core.privacy.noise import secret_generator
from lavq_core.privacy.plan import Plan
from lavq_core.settings import Config
from lavq_core.training.guided import GuidedBeats
from lavq_core.training.local_steps import Round
from lavq_core.training.private_separator import PrivateSeparatorTrainer
from lavq_core.training.private_statistics import Watch, private_statistics


class SitePatients(Protocol):
    """What of a site trains its separator (``SiteData`` has it)."""

    @property
    def config(self) -> Config:
        """The run's."""

    @property
    def beats(self) -> GuidedBeats:
        """n training records."""

    @property
    def beat_owners(self) -> Tensor:
        """Patients of ``beats``, ``(n,)`` int64."""


@dataclass(frozen=True)
class SeparatorRelease:
    """What a private round of the separator gives; all of it is noised, or as it came."""

    networks: Mapping[str, Tensor]  # those that are shared leave
    statistics: dict[str, Tensor]  # leave
    codes: Tensor  # stay on site
    kept: dict[str, Tensor]  # stay on site: what the next round goes on from
    made: Parts  # what of the leaving parts the round's mechanisms made; a buffer of a network is none of it

    def parts(self) -> dict[str, Mapping[str, Tensor]]:
        """What leaves, by part of the reply."""
        return {"networks": self.networks, "codebook": self.statistics}


def separator_round(
    site: SitePatients,
    networks: Networks,
    codebook: CodebookState,
    detector: FeatureDetector,
    plan: Plan,
    size: float,
    place: Round,
    kept: Mapping[str, Tensor],
    make_trainer: Callable[..., PrivateSeparatorTrainer] | None = None,
    watch: Watch | None = None,
) -> SeparatorRelease:
    """Train one round in place; a round in which the plan has no separator changes and releases nothing.

    Args:
        site: whose records.
        networks: what the round starts from, with the broadcast ones in their place.
        codebook: as broadcast.
        detector: as broadcast, the judge; in round 1 there is none yet.
        plan: noise.
        size: released number of patients.
        place: which round.
        kept: from the site's last round.
        make_trainer: an auditor's, whose trainer writes down what its steps release.
        watch: an auditor's, see ``private_statistics``.
    """
    config, own = site.config, plan.separator_in(place.number)
    if own is None:
        nothing = no_statistics(config.codebook, beat_tokens(config))
        return SeparatorRelease(networks.shared(config.federation.share), nothing, codebook["codes"], dict(kept), {})
    steps, before = config.separator_training.steps, own.before
    trainer = (make_trainer or PrivateSeparatorTrainer)(
        networks,
        codebook,
        BeatJudge(detector) if place.number > 1 else None,
        config,
        secret_generator(),
        own.steps.noise_multiplier,
        size,
        total=(place.rounds - before) * steps,
        done=(place.number - 1 - before) * steps,
        kept=kept,
    )
    owner = site.beat_owners
    trainer.run(site.beats, owner, steps)
    statistics = private_statistics(
        networks, trainer.codes, site.beats, owner, config, own.counts.noise_multiplier, size, watch
    )
    leaving = {name: value.clone() for name, value in networks.shared(config.federation.share).items()}
    trained = {name: leaving[name] for name, _ in networks.named_parameters() if name in leaving}
    made = {"networks": trained, "codebook": statistics}
    return SeparatorRelease(leaving, statistics, trainer.codes, trainer.keep(), made)
