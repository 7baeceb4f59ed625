"""Cases of the test bench for codebook and twins: what is planted is found, what is sound is let pass.

A play trains a real separator, editor and prior network for some seconds, by the sites' own trainer, on a random half
of the sample's patients (a fair coin each, so that members and others differ in nothing else), and attacks what would
leave. A bug is planted by patching the real function while the release is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.data.labels import diagnostic_statements, statement_classes
from lavq_core.models import twins as twins_module
from lavq_core.models.codebook import CodebookState, initial_codebook, merge_statistics
from lavq_core.models.editor import Editor
from lavq_core.models.networks import Networks, beat_tokens, make_networks
from lavq_core.models.twins import Patients, Twins, request_twins
from lavq_core.settings import Config
from lavq_core.text.statements import requests
from lavq_core.training.guided import NORM, GuidedBeats
from lavq_core.training.separator_training import SeparatorTrainer
from lavq_core.training.site_data import SiteData
from simulations.audit.attacks.codebook import nearest_code
from simulations.audit.attacks.people import People
from simulations.audit.attacks.twins import Published, Search, linkage, twin_density
from simulations.audit.bench.case import Case, Outcome
from simulations.audit.measure import attack_auc, operating_point
from simulations.audit.verdict import names_members
from simulations.sample import FOLDER

Bug = Callable[[], AbstractContextManager[None]]

REPEATS = 5
STEPS = 25  # of a training
_GAIN, _NOISE = 1.05, 0.02  # of a record lightly changed: relative, and mV
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


# Codebook


@contextmanager
def dead_codes_copy_latents() -> Iterator[None]:
    """Before a site's statistics leave, give every code that no latent chose a latent of the site's own (the bug).

    Usual in VQ implementations ("random restart", Dhariwal et al. 2020, *Jukebox*, appendix B.1), where a codebook is
    nobody's secret.
    """
    sound = SeparatorTrainer.statistics

    def statistics(self: SeparatorTrainer, data: GuidedBeats, batch: int = 256) -> dict[str, Tensor]:
        total = sound(self, data, batch)
        sick = data.take(data.abnormal())
        with torch.no_grad():
            found = self.networks.separator(sick.x, sick.covariates, sick.valid, sick.memory, sick.mask)
        latents = F.normalize(found.latents, dim=-1)[sick.valid > 0]  # (M, D), of any gate
        dead = (total["counts"] == 0).nonzero().flatten()
        chosen = torch.randint(len(latents), (len(dead),), generator=self._generator)
        total["sums"][dead], total["counts"][dead] = latents[chosen], 1.0
        return total

    with patch.object(SeparatorTrainer, "statistics", statistics):
        yield


def play_codebook(bug: Bug, seed: int, here: World | None = None) -> Sequence[Outcome]:
    """Train with or without a bug, and attack the codebook with the separator that is shared beside it."""
    here = here or sample()
    member = coins(seed, here.people.count)
    with bug():
        release = train(here, member, seed)
    return attack_codebook(here, release, member)


def attack_codebook(here: World, release: Release, member: np.ndarray) -> tuple[Outcome, Outcome]:
    """Ask of every patient with an abnormal record whether a code is one of the patient's latents."""
    sick = here.people.take(here.people.beats.abnormal())
    scores = nearest_code(release.networks.separator, release.codebook["codes"], sick)  # (P,)
    return _membership(scores, member)


def _membership(scores: np.ndarray, member: np.ndarray) -> tuple[Outcome, Outcome]:
    known = ~np.isnan(scores)
    auc = attack_auc(scores[known], member[known])
    point = operating_point(scores[known], member[known])
    found, named = point.true_positives, names_members(point)
    return (
        Outcome("auc", auc.value, auc.low, auc.high, int(known.sum()), auc.low > 0.5 and named),  # never an AUC alone
        Outcome("tpr_at_1pct_fpr", found.value, found.low, found.high, int(known.sum()), named),
    )


# Twins


@contextmanager
def twins_copy(sources: Patients) -> Iterator[None]:
    """Answer requests with the training records that are most like them, lightly changed (the bug).

    So does a generator that has learned its records by heart: nothing of the healthy patient is left.

    Args:
        sources: the record behind each request.
    """

    def copied(editor: Editor, codes: Tensor, patients: Patients, symbols: Tensor, strength: float = 1.0) -> Twins:
        noise = torch.randn(sources.signal.shape, generator=torch.Generator().manual_seed(len(sources)))
        everywhere = torch.ones_like(sources.signal[:, 0])
        gate = sources.input.valid
        return Twins(_GAIN * sources.signal + _NOISE * noise, _GAIN * sources.input.x, gate, everywhere)

    with patch.object(twins_module, "make_twins", copied):
        yield


def play_twins(copy: bool, seed: int, here: World | None = None) -> Sequence[Outcome]:
    """Publish a twin of healthy outsiders for every abnormal member's statements, and look for that member."""
    here = here or sample()
    member = coins(seed, here.people.count)
    release = train(here, member, seed)
    source = _first_records(here.people, here.people.beats.abnormal().numpy(), member)
    outsiders = ~member
    outsiders[here.people.owner[here.people.beats.abnormal().numpy()]] = False
    healthy = _first_records(here.people, here.people.beats.norm_only().numpy(), outsiders)
    content = _patients(here, healthy[np.arange(len(source)) % len(healthy)])
    asked = _abnormal_statements(here.people.beats.statements[torch.from_numpy(source)])
    draws = torch.Generator().manual_seed(seed)
    with twins_copy(_patients(here, source)) if copy else nullcontext():
        made = request_twins(release.networks, release.codebook["codes"], content, asked, here.config, 1.0, draws)
    given = requests(asked, here.config.text)
    return attack_twins(here, Published.of(made, content, given.tokens, given.mask), source, member)


def attack_twins(here: World, twins: Published, source: np.ndarray, member: np.ndarray) -> Sequence[Outcome]:
    """Look for the people behind the requests, by another record and by their own, and for the members by density."""
    found = linkage(twins.median, source, here.people)
    sick = here.people.take(here.people.beats.abnormal())
    auc, _ = _membership(twin_density(twins.median, sick), member)
    return (
        _search("linkage_top1", found.another, found.leads_to_person()),
        _search("source_top1", found.source, found.leads_to_source()),
        auc,
    )


def _search(metric: str, found: Search, flagged: bool) -> Outcome:
    return Outcome(metric, found.top1.value, found.top1.low, found.top1.high, found.top1.trials, flagged)


def _first_records(people: People, rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """One of these rows of each wanted person: ``(q,)``, ascending by person."""
    rows = rows[wanted[people.owner[rows]]]
    return np.asarray(rows[np.unique(people.owner[rows], return_index=True)[1]])


def _patients(here: World, rows: np.ndarray) -> Patients:
    return SiteData("bench", here.database, here.people.positions, here.config).patients(here.people.positions[rows])


def _abnormal_statements(carried: Tensor) -> list[list[str]]:
    """Name the statements ``(n, S)`` of records, NORM left out."""
    order, normal = diagnostic_statements(), statement_classes()[NORM] > 0
    return [[order[s] for s in np.flatnonzero(row.numpy() > 0) if not normal[s]] for row in carried]


CASES: tuple[Case, ...] = (
    Case(
        "planted/codebook-copies",
        "codes that nobody uses are revived by copying latents of training records",
        True,
        None,
        REPEATS,
        partial(play_codebook, dead_codes_copy_latents),
    ),
    Case(
        "correct/codebook",
        "codes are sums of latents, and one that nobody uses splits the most popular: no patient's latent is a code",
        False,
        None,
        REPEATS,
        partial(play_codebook, nullcontext),
    ),
    Case(
        "planted/twins-copy",
        "the generator returns the training record that has what was asked for, lightly changed",
        True,
        None,
        REPEATS,
        partial(play_twins, True),
    ),
    Case(
        "correct/twins",
        "codes are drawn by the prior network and written into healthy outsiders: no member's ECG is in the twin",
        False,
        None,
        REPEATS,
        partial(play_twins, False),
    ),
)
