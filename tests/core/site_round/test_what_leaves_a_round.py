"""A site's round: what leaves has the form of what came, and nothing of the held-out folds is in it."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lavq_core.data.database import Database
from lavq_core.data.labels import (
    SUPERCLASSES,
)
from lavq_core.models.codebook import STATISTICS
from lavq_core.models.networks import beat_tokens
from lavq_core.settings import SHAREABLE, Config
from lavq_core.training.guided import NORM
from lavq_core.training.site_data import SiteData
from lavq_core.training.site_round import train_round
from tests.core.site_round.rounds import POSITIONS, S, broadcast, equal, on_disk, play


def test_what_leaves_has_the_form_of_what_came(site: SiteData, tmp_path: Path) -> None:
    shared = broadcast(site.config)
    before = copy.deepcopy(shared)
    update = train_round(site, tmp_path / "private", shared, 1, 4)
    for sent, came in ((update.detector, shared.detector), (update.networks, shared.networks)):
        assert {name: value.shape for name, value in sent.items()} == {n: v.shape for n, v in came.items()}
        assert not equal(sent, came)
    assert {name: value.shape for name, value in update.statistics.items()} == {
        name: shared.codebook[name].shape for name in STATISTICS
    }
    for value in (*update.detector.values(), *update.networks.values(), *update.statistics.values()):
        assert value.dtype == torch.float32
        assert value.device.type == "cpu"
        assert not value.requires_grad
        assert torch.isfinite(value).all()
    assert update.examples == len(site.train_positions)
    for part in ("detector", "codebook", "networks"):
        assert equal(getattr(shared, part), getattr(before, part))


@pytest.mark.parametrize("share", [[], ["prior"], ["editor", "prior"], list(SHAREABLE)])
def test_only_the_networks_that_are_shared_leave(
    sample_database: Database, tiny: Config, tmp_path: Path, share: list[str]
) -> None:
    tiny.federation.share = share
    update = play(SiteData("site-0", sample_database, POSITIONS, tiny), tmp_path / "private")
    assert {name.split(".")[0] for name in update.networks} == set(share)
    kept = on_disk(tmp_path / "private")
    assert {name.split(".")[0] for name in kept} == set(SHAREABLE)
    assert all(torch.equal(value, kept[name]) for name, value in update.networks.items())


def test_what_leaves_is_sums_of_this_round_only(site: SiteData, tmp_path: Path) -> None:
    """The broadcast counts are the server's: a site that sent them back would count everybody twice."""
    shared = broadcast(site.config)
    for name in STATISTICS:
        shared.codebook[name] += 1000.0
    update = train_round(site, tmp_path / "private", shared, 1, 4)
    tokens, records = beat_tokens(site.config), len(site.train_positions)
    assert 0 < float(update.statistics["prior"].sum()) <= tokens * records
    assert float(update.statistics["counts"].sum()) <= tokens * records
    assert 0 < float(update.statistics["requests"].sum()) <= S * records
    assert not update.statistics["prior"][NORM].any()
    assert not update.statistics["requests"][NORM].any()


def test_the_same_seed_gives_the_same_bits_and_another_site_another_stream(site: SiteData, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = play(site, tmp_path / "a", number=3)
    torch.manual_seed(2)
    again = play(site, tmp_path / "b", number=3)
    for part in ("detector", "networks", "statistics"):
        assert equal(getattr(first, part), getattr(again, part))
    assert first.measured == again.measured
    assert equal(on_disk(tmp_path / "a"), on_disk(tmp_path / "b"))

    reseeded = copy.deepcopy(site.config)
    reseeded.run.seed = 1
    shared = broadcast(site.config)
    others = [(replace(site, name="site-1"), 3), (site, 2), (replace(site, config=reseeded), 3)]
    for place, (other, number) in enumerate(others):
        update = train_round(other, tmp_path / f"other-{place}", shared, number, 4)
        assert not equal(first.detector, update.detector)
        assert not equal(first.networks, update.networks)


def test_nothing_of_the_held_out_folds_enters_training(
    sample_database: Database, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every signal that is read during a round is one of a training fold, and the held-out ones change no bit."""
    site = SiteData("site-0", sample_database, POSITIONS, tiny)
    read: list[int] = []
    signals, guided = Database.signals, SiteData.guided

    def spy_on_signals(self: Database, positions: np.ndarray) -> Tensor:
        read.extend(np.asarray(positions).tolist())
        return signals(self, positions)

    def spy_on_beats(self: SiteData, positions: np.ndarray):
        read.extend(np.asarray(positions).tolist())
        return guided(self, positions)

    monkeypatch.setattr(Database, "signals", spy_on_signals)
    monkeypatch.setattr(SiteData, "guided", spy_on_beats)
    first = play(site, tmp_path / "a", number=3)
    folds = sample_database.table["strat_fold"].to_numpy()
    assert set(read) == set(site.train_positions.tolist()) == set(POSITIONS[~np.isin(folds[POSITIONS], (9, 10))])
    held_out = set(sample_database.table["patient_id"].iloc[np.setdiff1d(POSITIONS, site.train_positions)])
    assert held_out
    assert not held_out & set(site.rows(site.train_positions)["patient_id"])

    monkeypatch.undo()
    without = play(replace(site, positions=site.train_positions), tmp_path / "b", number=3)
    for part in ("detector", "networks", "statistics"):
        assert equal(getattr(first, part), getattr(without, part))


def test_the_folds_are_the_configured_ones(sample_database: Database, tiny: Config) -> None:
    tiny.data.train_folds, tiny.data.validation_fold, tiny.data.test_fold = [3, 9, 10], 1, 2
    site = SiteData("site-0", sample_database, POSITIONS, tiny)
    folds = sample_database.table["strat_fold"].to_numpy()
    assert set(folds[site.train_positions]) == {3, 9, 10}
    assert set(folds[site.fold_positions(2)]) == {2}
    assert set(folds[site.fold_positions(1, 2)]) == {1, 2}
    together = [site.fold_positions(fold) for fold in range(1, 11)]
    assert sorted(np.concatenate(together).tolist()) == POSITIONS.tolist()


def test_a_withheld_superclass_is_not_trained_on(site: SiteData, sample_database: Database, tmp_path: Path) -> None:
    without = replace(site, withheld=("MI",))
    labels = sample_database.labels[:, SUPERCLASSES.index("MI")]
    assert without.train_positions.tolist() == [p for p in site.train_positions if labels[p] == 0]
    assert 0 < len(without.train_positions) < len(site.train_positions)
    assert without.fold_positions(10).tolist() == site.fold_positions(10).tolist()  # but it is tested on
    update = play(without, tmp_path / "private")
    assert not update.statistics["prior"][SUPERCLASSES.index("MI")].any()
    assert not update.statistics["requests"][SUPERCLASSES.index("MI")].any()
