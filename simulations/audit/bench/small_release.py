"""A small release for the test bench: separator, editor, prior network and codebook, trained for some seconds.

The sites' own trainer trains it on a random half of the sample's patients (a fair coin each, so that members and others
differ in nothing else). A bug is planted by patching the real function while the release is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.models.codebook import CodebookState, initial_codebook, merge_statistics
from lavq_core.models.networks import Networks, beat_tokens, make_networks
from lavq_core.settings import Config
from lavq_core.training.separator_training import SeparatorTrainer
from simulations.audit.attacks.people import People
from simulations.sample import FOLDER

REPEATS = 5
STEPS = 25  # of a training
_SETTINGS = (
    "run.device=cpu",
    "codebook.size=512",
    "separator.width=16",
    "separator.blocks=1",
    "separator.heads=2",
    "separator_training.batch=16",
    "separator_training.lr=1e-2",
    "separator_training.loss.adversarial=0",  # without opponents a step takes a third of the time
    "separator_training.loss.statements=0",
)


@dataclass(frozen=True)
class World:
    """The sample's people; which of them are members is drawn anew for every play."""

    config: Config
    database: Database
    people: People  # of all records

    @classmethod
    def of(cls, database: Database) -> World:
        """Take everybody in a database."""
        config = compose(list(_SETTINGS))
        patients, owner = np.unique(database.table["patient_id"].to_numpy(), return_inverse=True)
        people = People.of_records(database, config, np.arange(len(database)), owner, len(patients))
        return cls(config, database, people)


@dataclass(frozen=True)
class Release:
    """What a federation of one site publishes after one round."""

    networks: Networks
    codebook: CodebookState


@cache
def sample() -> World:
    """Open the bundled sample."""
    return World.of(Database.open(FOLDER, progress=False))


def coins(seed: int, patients: int) -> np.ndarray:
    """Draw who is a member: ``(P,)`` bool."""
    return np.random.default_rng([seed, patients]).random(patients) < 0.5


def train(here: World, member: np.ndarray, seed: int) -> Release:
    """Train on the members' records for one round, and merge what leaves as the server does."""
    config = here.config
    networks = make_networks(config, seed)
    codebook = initial_codebook(config.codebook, beat_tokens(config), seed)
    generator = torch.Generator().manual_seed(seed)
    data = here.people.take(torch.from_numpy(np.flatnonzero(member[here.people.owner]))).beats
    trainer = SeparatorTrainer(networks, codebook, None, config, generator, total=STEPS)
    trainer.run(data, STEPS)
    return Release(networks, merge_statistics(codebook, [trainer.statistics(data)]))
