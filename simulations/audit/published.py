"""A run's final model, loaded once: its detector, and where networks are published, codebook, networks and twins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from lavq_core.config import load_config
from lavq_core.models.codebook import CodebookState
from lavq_core.models.detector import Detector
from lavq_core.models.networks import Networks, make_networks
from lavq_core.models.stored import shared_detector
from lavq_core.runs.artefact import load_artefact
from lavq_core.runs.layout import RunFolder
from lavq_core.settings import SHAREABLE, Config
from simulations.audit.attacks.people import BeatFrame
from simulations.audit.attacks.published_twins import PublishedTwins, published_twins


@dataclass(frozen=True)
class PublishedNetworks:
    """Separator, editor and prior network that left the sites, with the codebook beside them."""

    networks: Networks  # eval mode
    codebook: CodebookState
    config: Config
    frame: BeatFrame  # whom they are asked about

    @cached_property
    def twins(self) -> PublishedTwins:
        """Twins of the frame's healthy people; made when they are first asked for."""
        return published_twins(self.networks, self.codebook, self.config, self.frame.content, self.config.run.seed)


@dataclass(frozen=True)
class PublishedModel:
    """All that a run publishes."""

    detector: Detector  # eval mode, CPU
    networks: PublishedNetworks | None  # None where they are not published, or nobody is asked about

    @classmethod
    def of_run(cls, run: RunFolder, frame: BeatFrame | None) -> PublishedModel:
        """Load the final model of a run, or of a shadow of one.

        Args:
            run: a finished run.
            frame: whom codebook and twins are asked about; None where the run publishes no networks.

        Raises:
            RunError: the run has no final model.
        """
        config, (parts, _) = load_config(run.config), load_artefact(run.model)
        networks = None
        if frame is not None:
            networks = PublishedNetworks(networks_of(config, parts["networks"]), parts["codebook"], config, frame)
        return cls(shared_detector(config, parts["detector"]), networks)


def publishes_networks(config: Config) -> bool:
    """Tell whether a run trains separator, editor and prior network and lets all of them leave its sites."""
    return config.separator_training.steps > 0 and set(config.federation.share) == set(SHAREABLE)


def networks_of(config: Config, weights: dict[str, Tensor]) -> Networks:
    """Put weights that left a site into networks, in eval mode."""
    networks = make_networks(config, config.run.seed)
    networks.take_over(weights)
    return networks.eval()
