"""A site's round: which networks it starts from, and who judges them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lavq_core.data.database import Database
from lavq_core.models.networks import Networks, make_networks
from lavq_core.runs.artefact import load_artefact
from lavq_core.runs.layout import rounds_in
from lavq_core.settings import Config
from lavq_core.training import site_round
from lavq_core.training.site_data import SiteData
from lavq_core.training.site_round import train_round
from tests.core.site_round.rounds import POSITIONS, broadcast, equal, of, on_disk, play

# --- the networks ----------------------------------------------------------------------------------------------------


def starts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """The weights with which training begins, round by round."""
    found: list[dict[str, Tensor]] = []
    trainer = site_round.SeparatorTrainer

    def spy(networks: Networks, *rest, **named):
        found.append({name: value.clone() for name, value in networks.state_dict().items()})
        return trainer(networks, *rest, **named)

    monkeypatch.setattr(site_round, "SeparatorTrainer", spy)
    return found


def test_shared_networks_come_from_the_server_and_others_from_the_sites_disk(
    sample_database: Database, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.federation.share = ["editor", "prior"]
    site, folder = SiteData("site-0", sample_database, POSITIONS, tiny), tmp_path / "private"
    begun = starts(monkeypatch)
    play(site, folder, 1)
    own = on_disk(folder)
    server = make_networks(tiny, 7)  # what other sites made of it
    train_round(site, folder, replace(broadcast(tiny), networks=server.shared(["editor", "prior"])), 2, 4)
    assert equal(begun[0], dict(make_networks(tiny, tiny.run.seed).state_dict()))
    for name, weights in (("separator", own), ("editor", server.state_dict()), ("prior", server.state_dict())):
        assert equal(of(name, begun[1]), of(name, weights))
    assert not equal(of("editor", own), of("editor", begun[1]))
    assert [load_artefact(kept)[1]["round"] for kept in rounds_in(folder).values()] == [1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["private"]


def test_without_sharing_a_site_goes_on_with_its_own_networks(
    sample_database: Database, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.federation.share = []
    site, folder = SiteData("site-0", sample_database, POSITIONS, tiny), tmp_path / "private"
    begun = starts(monkeypatch)
    first = play(site, folder, 1)
    own = on_disk(folder)
    second = play(site, folder, 2)
    assert equal(begun[1], own)
    for update in (first, second):
        assert update.measured.keys() >= {"separator_loss", "perplexity", "detector_loss", "twins"}
        assert update.networks == {}


def test_two_sites_do_not_mix(site: SiteData, tmp_path: Path) -> None:
    play(site, tmp_path / "sites" / "one")
    alone = on_disk(tmp_path / "sites" / "one")
    play(replace(site, name="site-1"), tmp_path / "sites" / "other")
    assert equal(on_disk(tmp_path / "sites" / "one"), alone)
    assert not equal(on_disk(tmp_path / "sites" / "other"), alone)


def schedules(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Steps of the whole training and steps done, as each round begins."""
    found: list[tuple[int, int]] = []
    trainer = site_round.SeparatorTrainer

    def spy(*rest, total: int, done: int, **named):
        found.append((total, done))
        return trainer(*rest, total=total, done=done, **named)

    monkeypatch.setattr(site_round, "SeparatorTrainer", spy)
    return found


def test_the_learning_rate_falls_over_all_rounds(
    site: SiteData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = schedules(monkeypatch)
    for number in (1, 2, 4):
        play(site, tmp_path / "private", number)
    steps = site.config.separator_training.steps
    assert begun == [(4 * steps, 0), (4 * steps, steps), (4 * steps, 3 * steps)]


def test_the_separator_waits_for_its_round_and_then_has_a_whole_schedule(
    sample_database: Database, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.separator_training.after = tiny.twins.after = 0.5
    site, begun = SiteData("site-0", sample_database, POSITIONS, tiny), schedules(monkeypatch)
    early, first, last = (play(site, tmp_path / "private", number) for number in (2, 3, 4))
    steps = tiny.separator_training.steps
    assert begun[1:] == [(2 * steps, 0), (2 * steps, steps)]
    assert equal(early.networks, broadcast(tiny).networks)  # nothing was trained yet
    assert all(not value.any() for value in early.statistics.values())
    assert not equal(first.networks, broadcast(tiny).networks)
    assert first.statistics["requests"].any()
    assert "separator_loss" not in early.measured
    assert "separator_loss" in last.measured


# --- the judge -------------------------------------------------------------------------------------------------------


def test_the_judge_is_the_broadcast_detector_from_round_two(
    site: SiteData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judges: list[torch.nn.Module | None] = []
    trainer = site_round.SeparatorTrainer

    def spy(networks, codebook, judge, *rest, **named):
        judges.append(judge)
        return trainer(networks, codebook, judge, *rest, **named)

    monkeypatch.setattr(site_round, "SeparatorTrainer", spy)
    play(site, tmp_path / "private", 1)
    update = play(site, tmp_path / "private", 2)
    assert judges[0] is None  # weights that nobody trained judge nothing
    assert judges[1] is not None
    assert equal(dict(judges[1].state_dict()), broadcast(site.config).detector)
    assert not equal(
        dict(judges[1].state_dict()), update.detector
    )  # the site's own detector learns, the judge does not
    assert not any(parameter.requires_grad for parameter in judges[1].parameters())
    assert not judges[1].training
