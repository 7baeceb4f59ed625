"""Twins in the detector's training, and sites that lack what it takes to make them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lavq_core.data.database import Database
from lavq_core.data.labels import (
    SUPERCLASSES,
    public_statements,
    superclass_of,
)
from lavq_core.errors import DataError
from lavq_core.models.codebook import STATISTICS
from lavq_core.models.networks import make_networks
from lavq_core.settings import Config
from lavq_core.training import site_round
from lavq_core.training import training_twins as module
from lavq_core.training.detector_training import LabelledEcgs
from lavq_core.training.guided import NORM
from lavq_core.training.site_data import SiteData
from lavq_core.training.site_round import train_round
from lavq_core.training.training_twins import training_twins
from tests.core.site_round.rounds import BEATLESS, POSITIONS, S, broadcast, equal, play, seen_in

# --- twins -----------------------------------------------------------------------------------------------------------


def training_data(monkeypatch: pytest.MonkeyPatch) -> list[LabelledEcgs]:
    """What the detector trains on, round by round."""
    found: list[LabelledEcgs] = []
    train = site_round.train_in_round

    def spy(model, data: LabelledEcgs, *rest, **named):
        found.append(data)
        return train(model, data, *rest, **named)

    monkeypatch.setattr(site_round, "train_in_round", spy)
    return found


def test_twins_join_the_detectors_training_from_their_round_on(
    sample_database: Database, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.twins.after, tiny.twins.per_record, tiny.twins.weight = 0.25, 2, 0.25
    site = SiteData("site-0", sample_database, POSITIONS, tiny)
    trained_on = training_data(monkeypatch)
    real, healthy = len(site.train_positions), len(site.healthy)
    assert BEATLESS in site.train_positions
    assert healthy == int(sample_database.norm_only()[site.train_positions].sum()) - 1
    first, second = (play(site, tmp_path / "private", number) for number in (1, 2))
    assert (first.measured["twins"], second.measured["twins"]) == (0.0, 2.0 * healthy)
    assert first.examples == second.examples == real  # twins are no examples: they do not weigh the average
    assert len(trained_on[0]) == real
    twins = trained_on[1]
    assert len(twins) == real + 2 * healthy
    assert torch.equal(twins.x[:real], sample_database.signals(site.train_positions))
    assert twins.weight[:real].unique().tolist() == [1.0]
    assert twins.weight[real:].unique().tolist() == [0.25]


def made(site: SiteData, known: Tensor, seed: int = 0):
    networks, codes = make_networks(site.config, 0), broadcast(site.config).codebook["codes"]
    return training_twins(site, networks, codes, known, torch.Generator().manual_seed(seed))


def test_training_twins_are_of_healthy_training_patients_and_carry_one_disease(site: SiteData) -> None:
    twins = made(site, seen_in("NORM", "MI", "STTC", "CD"))
    assert twins is not None
    assert len(twins) == len(site.healthy)
    assert twins.y.sum(1).tolist() == [1.0] * len(twins)
    assert not twins.y[:, [NORM, SUPERCLASSES.index("HYP")]].any()  # HYP has never been seen
    shares = twins.y.sum(0)[1:4]
    assert float(shares.max() - shares.min()) <= 1  # diseases in equal shares
    changed = (twins.x - site.healthy.signal).abs()
    assert bool((changed.amax(dim=(1, 2)) < 2.0).all())  # each is its own patient, little changed
    assert bool((changed.amax(dim=(1, 2)) > 0).all())


def test_training_twins_are_asked_for_by_statements_of_their_disease(
    site: SiteData, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    request = module.request_twins

    def spy(networks, codes, patients, statements, *rest):
        asked.extend(statements)
        return request(networks, codes, patients, statements, *rest)

    monkeypatch.setattr(module, "request_twins", spy)
    twins = made(site, seen_in("STTC", "CD", "HYP"))
    assert twins is not None
    classes = superclass_of(public_statements())
    assert [SUPERCLASSES.index(classes[code]) for (code,) in asked] == twins.y.argmax(1).tolist()
    assert len({code for (code,) in asked}) > 3


def test_a_disease_that_only_other_sites_have_seen_is_made_too(
    site: SiteData, sample_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The point of a federated prior."""
    trained_on = training_data(monkeypatch)
    without = replace(site, withheld=("HYP",))
    play(without, tmp_path / "a", number=3)
    play(without, tmp_path / "b", number=3, known=seen_in("HYP"))
    real = len(without.train_positions)
    alone, federated = (data.y[real:, SUPERCLASSES.index("HYP")].sum() for data in trained_on)
    assert float(alone) == 0.0 < float(federated)


def test_without_a_disease_or_a_healthy_patient_there_are_no_twins(site: SiteData, sample_database: Database) -> None:
    assert made(site, torch.zeros(len(SUPERCLASSES), S)) is None
    assert made(site, seen_in("NORM")) is None
    sick = POSITIONS[sample_database.labels[POSITIONS, NORM] == 0]
    assert made(replace(site, positions=sick), seen_in("MI")) is None
    assert made(replace(site, positions=np.append(sick, BEATLESS)), seen_in("MI")) is None  # nobody to write to


# --- sites that lack something ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["healthy", "abnormal"])
def test_a_site_that_lacks_one_kind_sends_zero_statistics_and_trains_its_detector(
    site: SiteData, sample_database: Database, tmp_path: Path, missing: str
) -> None:
    norm = sample_database.norm_only()[POSITIONS]
    lacking = replace(site, positions=POSITIONS[norm if missing == "abnormal" else ~norm])
    shared = broadcast(site.config, seen_in("MI"))
    update = train_round(lacking, tmp_path / "private", shared, 3, 4)
    assert {name: value.shape for name, value in update.statistics.items()} == {
        name: shared.codebook[name].shape for name in STATISTICS
    }
    assert not any(value.any() for value in update.statistics.values())
    assert equal(update.networks, shared.networks)  # nothing was learned
    assert update.measured["twins"] == (len(lacking.healthy) if missing == "abnormal" else 0.0)
    assert "separator_loss" not in update.measured
    assert np.isfinite(update.measured["detector_loss"])
    assert not equal(update.detector, shared.detector)


def test_a_site_makes_no_twins_with_an_editor_that_nobody_trained(
    sample_database: Database, tiny: Config, tmp_path: Path
) -> None:
    """It has no abnormal record to train one, and gets none from the server: such twins are healthy, labelled ill."""
    tiny.federation.share = ["prior"]
    healthy = POSITIONS[sample_database.norm_only()[POSITIONS]]
    lacking = SiteData("site-0", sample_database, healthy, tiny)
    assert play(lacking, tmp_path / "private", number=3, known=seen_in("MI")).measured["twins"] == 0.0


def test_a_site_without_training_records_says_so(site: SiteData, sample_database: Database, tmp_path: Path) -> None:
    folds = sample_database.table["strat_fold"].to_numpy()[POSITIONS]
    with pytest.raises(DataError, match="site-0 has no record in the training folds"):
        play(replace(site, positions=POSITIONS[folds == 10]), tmp_path / "private")
    assert not (tmp_path / "private").exists()
