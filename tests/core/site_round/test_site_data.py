"""What a site trains on: every record for the detector, those with beats for the separator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from lavq_core.data.database import Database
from lavq_core.data.labels import (
    diagnostic_statements,
    public_statements,
    statement_matrix,
)
from lavq_core.data.requests import statement_names
from lavq_core.models.strip import strip_places
from lavq_core.models.twins import Patients
from lavq_core.settings import Config
from lavq_core.text.statements import requests
from lavq_core.training.site_data import SiteData
from tests.core.site_round.rounds import BEATLESS


def test_the_detector_trains_on_every_record_and_the_separator_on_those_with_beats(
    site: SiteData, sample_database: Database
) -> None:
    assert torch.equal(site.ecgs.x, sample_database.signals(site.train_positions))
    np.testing.assert_array_equal(site.ecgs.y.numpy(), sample_database.labels[site.train_positions])
    assert site.ecgs.weight.unique().tolist() == [1.0]
    kept = site.with_beats(site.train_positions)
    assert kept.tolist() == [position for position in site.train_positions if position != BEATLESS]
    np.testing.assert_array_equal(site.beats.x.numpy(), sample_database.beats.median[kept])
    np.testing.assert_array_equal(site.beats.y.numpy(), sample_database.labels[kept])


def test_guidance_is_what_a_beat_can_show(site: SiteData) -> None:
    """Diagnostic and form statements, not rhythms; NORM is to say nothing."""
    positions = site.with_beats(site.train_positions)
    shown = set(statement_names(public_statements()))
    codes = [[code for code in row if code in shown] for row in site.rows(positions)["statements"]]
    assert any(len(some) < len(row) for some, row in zip(codes, site.rows(positions)["statements"], strict=True))
    beats, expected = site.beats, requests(codes, site.config.text)
    for tokens, mask in ((beats.memory, beats.mask), (beats.asked, beats.asked_mask)):
        assert torch.equal(tokens, expected.tokens)
        assert torch.equal(mask, expected.mask)
    np.testing.assert_array_equal(beats.statements.numpy(), statement_matrix(codes))
    norm = beats.statements[:, diagnostic_statements().index("NORM")]
    assert not norm.any()


def test_the_free_text_guides_where_it_was_asked_for(site: SiteData, tiny: Config) -> None:
    """What is asked of twins stays statements: nobody asks for a twin with a report."""
    tiny.text.source = "report"
    by_text = replace(site, config=tiny).beats
    reports = site.rows(site.with_beats(site.train_positions))["report"]
    sentences = [sum(bool(part.strip()) for part in report.split(".")) for report in reports]
    assert by_text.mask.sum(1).tolist() == sentences
    assert torch.equal(by_text.asked, site.beats.asked)
    assert torch.equal(by_text.asked_mask, site.beats.asked_mask)


def test_strips_and_covariates_are_each_records_own(site: SiteData, sample_database: Database) -> None:
    positions = site.with_beats(site.train_positions)
    beats = sample_database.beats.take(positions)
    expected = strip_places(torch.from_numpy(beats.rr), torch.from_numpy(beats.valid), 100)
    assert torch.equal(site.beats.places, expected)
    rows = site.rows(positions)
    order = np.argsort(site.beats.covariates[:, 0].numpy())
    assert bool((np.diff(beats.rr[order]) >= 0).all())
    np.testing.assert_array_equal(site.beats.covariates[:, 2] > 0, rows["sex"] == 1)


def test_patients_are_the_databases_records_in_the_beat_frame(site: SiteData, sample_database: Database) -> None:
    healthy = site.train_positions[sample_database.norm_only()[site.train_positions]]
    healthy = healthy[healthy != BEATLESS]
    assert torch.equal(site.healthy.signal, sample_database.signals(healthy))
    rows = site.rows(healthy)
    again = Patients.of(site.healthy.signal, rows["age"].to_numpy(float), rows["sex"].to_numpy(float), 4, 100)
    torch.testing.assert_close(site.healthy.input.x, again.input.x, rtol=0.0, atol=1e-4)
    torch.testing.assert_close(site.healthy.input.covariates, again.input.covariates)
    assert torch.equal(site.healthy.input.valid, again.input.valid)
