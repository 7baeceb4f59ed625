"""Attacks on codebook and separator: every statistic by hand, on a separator whose answers are known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES, diagnostic_statements, statement_classes, statement_matrix
from lavq_core.models.codebook import initial_codebook, quantise
from lavq_core.models.networks import Networks, beat_tokens, make_networks
from lavq_core.settings import Config
from lavq_core.training.guided import NORM
from lavq_core.training.separator_losses import relative_error
from simulations.audit.attacks.codebook import (
    codebook_statistics,
    codes_of_update,
    commitment,
    healthy_gate,
    nearest_code,
    rare_statement,
    reconstruction,
)
from simulations.audit.attacks.people import People
from simulations.audit.cohort import Cohort
from tests.simulations.told_separator import MI, Told, angled, people, records

CODES = torch.tensor([[1.0, 0.0], [0.0, 1.0]])


# People


def test_a_patient_is_scored_by_the_records_that_the_cohort_scores(sample_database: Database) -> None:
    config = compose()
    cohort = Cohort.of_run(sample_database, config)
    found = People.of_cohort(sample_database, config, cohort)
    rows = sample_database.table.iloc[found.positions]
    np.testing.assert_array_equal(cohort.patients[found.owner], rows["patient_id"])
    np.testing.assert_array_equal(cohort.member[found.owner], rows["strat_fold"].isin(config.data.train_folds))
    assert found.count == len(cohort)
    usable = int(sample_database.beats.found().sum())
    assert len(found.beats) == len(found.positions) == usable < len(sample_database)
    np.testing.assert_array_equal(found.beats.x.numpy(), sample_database.beats.median[found.positions])


def test_patients_are_summed_up_by_hand() -> None:
    some = people(records([MI] * 5), [2, 0, 2, 3, 3], 4)
    values = np.array([1.0, 5.0, 4.0, np.nan, 7.0])
    np.testing.assert_array_equal(some.means(values), [5.0, np.nan, 2.5, 7.0])
    np.testing.assert_array_equal(some.largest(values), [5.0, np.nan, 4.0, 7.0])
    kept = some.take(torch.tensor([1, 4]))
    np.testing.assert_array_equal(kept.means(np.array([1.0, 2.0])), [1.0, np.nan, np.nan, 2.0])


# Statistics


def test_commitment_is_the_cosine_weighted_by_the_gate() -> None:
    probability = torch.tensor([[0.75, 0.25], [0.9, 0.1], [0.5, 0.5]])
    separator = Told(probability, angled([[0.0, 60.0], [90.0, 45.0], [0.0, 0.0]]))
    found = commitment(separator, CODES, people(records([MI, MI, NORM]), [0, 0, 1], 2))
    by_hand = [0.75 * 1.0 + 0.25 * math.cos(math.pi / 6), 0.9 * 1.0 + 0.1 * math.cos(math.pi / 4)]
    assert found[0] == pytest.approx(np.mean(by_hand))
    assert np.isnan(found[1])  # a NORM-only patient's latents enter no codebook


def test_a_shut_gate_is_scored_all_the_same() -> None:
    separator = Told(torch.zeros(1, 2), angled([[0.0, 60.0]]))
    found = commitment(separator, CODES, people(records([MI]), [0], 1))
    assert found[0] == pytest.approx((1.0 + math.cos(math.pi / 6)) / 2)


def test_a_code_that_is_a_patients_latent_gives_the_patient_away() -> None:
    valid = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    separator = Told(torch.zeros(3, 2), angled([[20.0, 60.0], [90.0, 45.0], [45.0, 0.0]]))
    found = nearest_code(separator, CODES, people(records([MI, NORM, MI], valid), [0, 1, 2], 4))
    np.testing.assert_allclose(found[:3], np.cos(np.deg2rad([20.0, 0.0, 45.0])), rtol=1e-6)  # not the invalid token's 0
    assert np.isnan(found[3])


def test_a_sum_of_one_latent_is_that_latent() -> None:
    """Of three people's latents at 20, 70 and 80 degrees the last two fell to one code, and nothing to another."""
    latents = angled([[20.0, 20.0], [70.0, 70.0], [80.0, 80.0]])
    unit = latents[:, 0] / 3.0
    statistics = {"counts": torch.tensor([1.0, 0.0, 2.0]), "sums": torch.stack([unit[0], 0 * unit[0], unit[1:].sum(0)])}
    codes = codes_of_update(statistics)
    assert len(codes) == 2
    found = nearest_code(Told(torch.zeros(3, 2), latents), codes, people(records([MI] * 3), [0, 1, 2], 3))
    np.testing.assert_allclose(found, np.cos(np.deg2rad([0.0, 5.0, 5.0])), rtol=1e-6)


def test_the_healthy_gate_is_the_logit_of_staying_shut_over_valid_tokens() -> None:
    valid = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    separator = Told(torch.tensor([[0.2, 0.5], [0.1, 0.9], [0.3, 0.3]]), angled([[0.0, 0.0]] * 3))
    found = healthy_gate(separator, people(records([NORM, NORM, MI], valid), [0, 1, 2], 3))
    assert found[0] == pytest.approx((math.log(0.8 / 0.2) + 0.0) / 2, abs=1e-6)
    assert found[1] == pytest.approx(math.log(0.9 / 0.1), abs=1e-5)
    assert np.isnan(found[2])


def test_the_rarest_abnormal_statement_counts() -> None:
    requests = torch.zeros(len(SUPERCLASSES), len(diagnostic_statements()))
    column = {code: place for place, code in enumerate(diagnostic_statements())}
    requests[MI, column["IMI"]], requests[MI, column["ALMI"]], requests[MI, column["LAFB"]] = 30.0, 2.0, 0.0
    beats = records([MI] * 4)
    carried = [["IMI", "ALMI"], ["IMI"], ["NORM"], ["IMI", "LAFB"]]
    beats = replace(beats, statements=torch.from_numpy(statement_matrix(carried)))
    found = rare_statement(requests, people(beats, [0, 1, 2, 3], 4))
    np.testing.assert_allclose(found[[0, 1, 3]], np.sqrt([2.0, 30.0, 0.0]))
    assert np.isnan(found[2])
    assert statement_classes()[NORM, column["NORM"]] == 1


# The real networks


@pytest.fixture(scope="module")
def config() -> Config:
    return compose(["codebook.size=8", "separator.width=16", "separator.blocks=1", "separator.heads=2"])


@pytest.fixture(scope="module")
def some(sample_database: Database, config: Config) -> People:
    positions = np.arange(0, len(sample_database), 20)
    return People.of_records(sample_database, config, positions, np.arange(len(positions)), len(positions))


@pytest.fixture(scope="module")
def networks(config: Config) -> Networks:
    made = make_networks(config, 0)
    with torch.no_grad():  # as drawn, all gates lie on one side of the threshold, and the editor changes nothing
        made.separator.gate.weight.mul_(50.0)
        made.editor.paint.weight.mul_(10.0)
    return made


@torch.no_grad()
def test_reconstruction_is_minus_the_logarithm_of_the_trainings_own_error(some: People, networks: Networks) -> None:
    codes = torch.nn.functional.normalize(torch.randn(8, 32, generator=torch.Generator().manual_seed(0)), dim=-1)
    found = reconstruction(networks, codes, some)
    assert set(np.flatnonzero(~np.isnan(found))) == set(some.owner[some.beats.abnormal().numpy()])
    for row in some.beats.abnormal().tolist():
        one = some.beats.take(torch.tensor([row]))
        seen = networks.separator(one.x, one.covariates, one.valid, one.memory, one.mask)
        quantised, _ = quantise(seen.latents, codes)
        healed = networks.editor(one.x, one.covariates, seen.gate, None)
        back = healed + networks.editor.change(healed, one.covariates, seen.gate, quantised)
        error = float(relative_error(back, one.x))
        assert found[some.owner[row]] == pytest.approx(-math.log(error + 0.01), rel=1e-4, abs=1e-4)
    assert np.nanstd(found) > 0.01


def test_all_that_is_published_is_attacked(some: People, networks: Networks, config: Config) -> None:
    codebook = initial_codebook(config.codebook, beat_tokens(config), 0)
    found = codebook_statistics(networks, codebook, some)
    assert set(found) == {"commitment", "reconstruction", "healthy_gate", "rare_statement"}
    assert all(values.shape == (some.count,) and values.dtype == np.float64 for values in found.values())
    np.testing.assert_array_equal(found["commitment"], commitment(networks.separator, codebook["codes"], some))
