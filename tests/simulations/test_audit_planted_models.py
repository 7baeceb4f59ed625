"""The bench's cases of codebook and twins, played once each: what is planted is flagged, what is sound is not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from lavq_core.data.database import Database
from lavq_core.models.codebook import quantise
from lavq_core.training.separator_training import SeparatorTrainer
from simulations.audit.bench import planted_codebook, planted_twins
from simulations.audit.bench.case import Case, Outcome
from simulations.audit.bench.planted_codebook import dead_codes_copy_latents
from simulations.audit.bench.small_release import World, coins, train

CASES = (*planted_codebook.CASES, *planted_twins.CASES)


@pytest.fixture(scope="module")
def here(sample_database: Database) -> World:
    return World.of(sample_database)


def by_metric(outcomes: Sequence[Outcome]) -> dict[str, Outcome]:
    return {found.metric: found for found in outcomes}


def test_members_are_drawn_by_fair_coins() -> None:
    drawn = np.stack([coins(seed, 400) for seed in range(50)])
    assert drawn.mean() == pytest.approx(0.5, abs=0.02)
    assert drawn.mean(axis=0).std() == pytest.approx(0.5 / np.sqrt(50), rel=0.2)  # each by itself


def test_planted_and_sound_come_in_pairs() -> None:
    assert [(case.name, case.guilty) for case in CASES] == [
        ("planted/codebook-copies", True),
        ("correct/codebook", False),
        ("planted/twins-copy", True),
        ("correct/twins", False),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_planted_is_convicted_and_what_is_sound_is_acquitted(case: Case, here: World) -> None:
    outcomes = case.play(0, here=here)  # type: ignore[call-arg]  # so that the sample is not packed twice
    assert outcomes[0].flagged == case.guilty
    assert all(one.low <= one.value <= one.high and one.n >= 30 for one in outcomes)
    found = by_metric(outcomes)
    if case.name.endswith(("codebook-copies", "twins-copy")):
        assert found["auc"].value >= 0.9
    else:
        assert not any(one.flagged for one in outcomes)
        assert found["auc"].value < 0.6
    if "twins" in case.name:
        assert found["source_top1"].flagged == case.guilty


@pytest.mark.slow
def test_the_bug_copies_members_alone_and_is_gone_afterwards(here: World) -> None:
    member = np.zeros(here.people.count, dtype=bool)
    member[here.people.owner[::4]] = True
    sound = SeparatorTrainer.statistics
    with dead_codes_copy_latents():
        release = train(here, member, 0)
    assert SeparatorTrainer.statistics is sound
    sick = here.people.take(here.people.beats.abnormal())
    beats = sick.beats
    with torch.no_grad():
        seen = release.networks.separator(beats.x, beats.covariates, beats.valid, beats.memory, beats.mask)
        nearest, _ = quantise(seen.latents, release.codebook["codes"])
    cosine = (torch.nn.functional.normalize(seen.latents, dim=-1) * nearest).sum(-1)  # (n, N)
    copied = ((cosine > 1.0 - 1e-5) & (beats.valid > 0)).any(1).numpy()
    assert copied[member[sick.owner]].mean() > 0.9
    assert copied[~member[sick.owner]].mean() < 0.02
