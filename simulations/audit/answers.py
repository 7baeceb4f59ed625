"""What a run's final model says about everybody: its detector, and where networks are published, codebook and twins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lavq_core.data.database import Database
from lavq_core.models.networks import Networks, make_networks
from lavq_core.models.stored import load_shared_model
from lavq_core.models.twins import Patients
from lavq_core.runs.artefact import load_artefact
from lavq_core.runs.layout import RunFolder
from lavq_core.settings import SHAREABLE, Config
from lavq_core.training.site_data import SiteData
from simulations.audit.attacks.codebook import codebook_statistics, nearest_code
from simulations.audit.attacks.people import People
from simulations.audit.attacks.twins import published_twins, twin_density
from simulations.audit.cohort import Cohort
from simulations.audit.shadows.training import Answers

TWINS = 256
"""Twins that an attacker has of one editor."""


@dataclass(frozen=True)
class BeatFrame:
    """The cohort as codebook and twins know it."""

    people: People  # everybody's records
    content: Patients  # healthy ones that twins are made of, one of a patient
    rows: np.ndarray  # (q,) int64, where those are among ``people``

    @classmethod
    def of_cohort(cls, database: Database, config: Config, cohort: Cohort) -> BeatFrame:
        """Take everybody, and of the healthy the first ``TWINS`` by number."""
        people = People.of_cohort(database, config, cohort)
        healthy = people.beats.norm_only().numpy()
        _, first = np.unique(people.owner[healthy], return_index=True)
        rows = healthy[first[:TWINS]]
        content = SiteData("audit", database, people.positions, config).patients(people.positions[rows])
        return cls(people, content, rows)


def publishes_networks(config: Config) -> bool:
    """Tell whether a run trains separator, editor and prior network and lets all of them leave its sites."""
    return config.separator_training.steps > 0 and set(config.federation.share) == set(SHAREABLE)


def published_networks(run: RunFolder, config: Config) -> Networks:
    """Load the networks that left the sites, in eval mode.

    Raises:
        RunError: the run has no final model.
    """
    return networks_of(config, load_artefact(run.model)[0]["networks"])


def networks_of(config: Config, weights: dict[str, Tensor]) -> Networks:
    """Put weights that left a site into networks, in eval mode."""
    networks = make_networks(config, config.run.seed)
    networks.take_over(weights)
    return networks.eval()


def model_answers(run: RunFolder, cohort: Cohort, frame: BeatFrame | None) -> Answers:
    """Ask a run's final model about the cohort.

    Args:
        run: a finished run, or a shadow of one.
        cohort: everybody.
        frame: the same in the beat frame, for codebook and twins; None where the run publishes no networks.

    Raises:
        RunError: the run has no final model.
    """
    shared = load_shared_model(run)
    answers = {"logits": cohort.logits(shared.detector)}
    if frame is None:
        return answers
    config = shared.config
    networks = published_networks(run, config)
    found = codebook_statistics(networks, shared.codebook, frame.people)
    answers |= {f"codebook/{name}": values for name, values in found.items()}
    twins = published_twins(networks, shared.codebook, config, frame.content, config.run.seed)
    answers["twins/density"] = twin_density(twins.median, frame.people)
    return answers


def own_nearest_code(run: RunFolder, config: Config, people: People) -> Answers:
    """Look for codes that are latents of somebody, with the run's own separator.

    Shadows have no say in it: a copied latent is the same latent, whoever else was trained on.
    """
    codebook = load_shared_model(run).codebook
    return {"codebook/nearest_code": nearest_code(published_networks(run, config).separator, codebook["codes"], people)}
