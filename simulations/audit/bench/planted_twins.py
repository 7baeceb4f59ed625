"""Twins of the test bench: copies of training records are found, twins of healthy outsiders are let pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from lavq_core.data.labels import diagnostic_statements, statement_classes
from lavq_core.models import twins as twins_module
from lavq_core.models.editor import Editor
from lavq_core.models.twins import Patients, Twins, request_twins
from lavq_core.text.statements import requests
from lavq_core.training.guided import NORM
from lavq_core.training.site_data import SiteData
from simulations.audit.attacks.identity_search import Search
from simulations.audit.attacks.linkage import linkage
from simulations.audit.attacks.people import People
from simulations.audit.attacks.published_twins import PublishedTwins
from simulations.audit.attacks.twin_density import twin_density
from simulations.audit.bench.case import Case, Outcome, membership
from simulations.audit.bench.small_release import REPEATS, World, coins, sample, train

_GAIN, _NOISE = 1.05, 0.02  # of a record lightly changed: relative, and mV


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
    return attack_twins(here, PublishedTwins.of(made, content, given.tokens, given.mask), source, member)


def attack_twins(here: World, twins: PublishedTwins, source: np.ndarray, member: np.ndarray) -> Sequence[Outcome]:
    """Look for the people behind the requests, by another record and by their own, and for the members by density."""
    found = linkage(twins.median, source, here.people)
    sick = here.people.take(here.people.beats.abnormal())
    auc, _ = membership(twin_density(twins.median, sick), member)
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
