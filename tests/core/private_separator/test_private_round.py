"""A private round: one entry of the ledger covers all that leaves, and nothing else gets out of the door."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lavq_core.models.codebook import code_statistics, initial_codebook, quantise
from lavq_core.models.detector import build_detector
from lavq_core.models.networks import beat_tokens, make_networks
from lavq_core.models.stored import load_start
from lavq_core.privacy.guard import LeavingRefused, check_leaving, digests
from lavq_core.privacy.ledger import Ledger
from lavq_core.settings import Config
from lavq_core.training import private_round
from lavq_core.training.guided import class_weights
from lavq_core.training.site_data import SiteData
from lavq_core.training.site_round import SharedState, SiteUpdate, train_round
from tests.core.private_separator.making import ROUNDS, networks_of, of_kind


def broadcast(config: Config) -> SharedState:
    detector = build_detector(config.detector, 100, config.run.seed)
    networks = make_networks(config, config.run.seed).shared(config.federation.share)
    codebook = initial_codebook(config.codebook, beat_tokens(config), config.run.seed)
    return SharedState(dict(detector.state_dict()), codebook, networks)


def play(site: SiteData, folder: Path, number: int) -> tuple[SiteUpdate, Ledger]:
    ledger = Ledger(folder / "ledger", "data", 100.0, site.config.privacy.delta)
    return train_round(site, folder / "private", broadcast(site.config), number, ROUNDS, ledger), ledger


@pytest.fixture(scope="module")
def played(site: SiteData, tmp_path_factory: pytest.TempPathFactory) -> tuple[SiteUpdate, Ledger]:
    """A site's first round is the federation's second."""
    return play(site, tmp_path_factory.mktemp("site"), 2)


def parts_of(update: SiteUpdate) -> dict[str, dict[str, Tensor]]:
    return {"detector": update.detector, "codebook": update.statistics, "networks": update.networks}


def leave(parts: dict[str, dict[str, Tensor]], ledger: Ledger, config: Config) -> None:
    shared = broadcast(config)
    check_leaving(parts, ledger.entries[-1].outputs, {"detector": shared.detector, "networks": shared.networks})


def test_one_entry_of_the_ledger_covers_all_that_leaves(config: Config, played: tuple[SiteUpdate, Ledger]) -> None:
    update, ledger = played
    assert [m.name for m in ledger.entries[-1].mechanisms] == ["size", "detector", "separator", "counts"]
    leave(parts_of(update), ledger, config)
    assert update.networks.keys() == broadcast(config).networks.keys()
    assert not torch.equal(update.networks["editor.null"], broadcast(config).networks["editor.null"])
    assert update.examples == max(1, round(ledger.entries[-1].public["size"]))


def test_the_ledger_holds_nothing_of_what_was_released(played: tuple[SiteUpdate, Ledger]) -> None:
    _, ledger = played
    entry = json.loads(ledger.path.read_text(encoding="utf-8").splitlines()[-1])
    assert entry["public"].keys() == {"size"}
    assert all(len(output) == 64 for output in entry["outputs"])


def test_a_round_trained_twice_draws_other_noise(
    site: SiteData, played: tuple[SiteUpdate, Ledger], tmp_path: Path
) -> None:
    again, _ = play(site, tmp_path, 2)
    assert not torch.equal(again.networks["editor.null"], played[0].networks["editor.null"])
    assert not torch.equal(again.statistics["counts"], played[0].statistics["counts"])


def test_no_draw_of_a_private_round_follows_from_the_runs_seed(
    site: SiteData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn from a known seed, one patient more would shift what is drawn for all the others."""
    seeds: list[int] = []
    real = private_round.PrivateSeparatorTrainer

    def watched(*args: Any, **more: Any) -> Any:
        seeds.extend(value.initial_seed() for value in args if isinstance(value, torch.Generator))
        return real(*args, **more)

    monkeypatch.setattr(private_round, "PrivateSeparatorTrainer", watched)
    for name in ("a", "b"):
        play(site, tmp_path / name, 2)
    assert len(seeds) == len(set(seeds)) == 2


@pytest.mark.parametrize("leak", ["moving average", "copied latent", "another network", "class counts"])
def test_what_no_mechanism_released_is_caught_at_the_door(
    config: Config, site: SiteData, played: tuple[SiteUpdate, Ledger], leak: str
) -> None:
    update, ledger = played
    parts = copy.deepcopy(parts_of(update))
    networks, data = networks_of(config), of_kind(site.beats, True)
    found = networks.separator(data.x, data.covariates, data.valid, data.memory, data.mask)
    codes = initial_codebook(config.codebook, beat_tokens(config), 0)["codes"]
    _, indices = quantise(found.latents, codes)
    fresh = code_statistics(found.latents, indices, found.gate > 0.5, len(codes))
    if leak == "moving average":
        parts["codebook"]["sums"] = 0.99 * parts["codebook"]["sums"] + 0.01 * fresh["sums"]
    elif leak == "copied latent":
        parts["codebook"]["sums"][0] = found.latents[0, 0].detach()
    elif leak == "another network":
        parts["networks"]["editor.null"] = parts["networks"]["editor.null"] + 1e-7 * found.latents[0, 0].detach()
    else:
        parts["codebook"]["requests"] = class_weights(data.y).T @ data.statements
    with pytest.raises(LeavingRefused, match="comes from no mechanism"):
        leave(parts, ledger, config)


def test_asked_twice_a_site_sends_the_same_and_goes_on_from_the_same(site: SiteData, tmp_path: Path) -> None:
    """Killed after it paid and before it kept its networks, it has them from the kept reply."""
    first, _ = play(site, tmp_path, 2)
    own = load_start(site.config, tmp_path / "private", before=3)
    shutil.rmtree(tmp_path / "private")
    again, ledger = play(site, tmp_path, 2)
    assert again.again
    assert len(ledger.entries) == 1
    assert again.examples == first.examples
    for part, state in parts_of(first).items():
        assert digests({part: state}) == digests({part: parts_of(again)[part]}), part
    networks, kept = load_start(site.config, tmp_path / "private", before=3)
    assert digests({"": networks.state_dict(), "kept": kept}) == digests({"": own[0].state_dict(), "kept": own[1]})
    assert kept


def test_before_its_first_round_the_separator_releases_nothing(site: SiteData, tmp_path: Path) -> None:
    update, ledger = play(site, tmp_path, 1)
    assert [m.name for m in ledger.entries[-1].mechanisms] == ["size", "centre"]
    assert all(not bool(value.any()) for value in update.statistics.values())
    shared = broadcast(site.config)
    assert all(torch.equal(value, shared.networks[name]) for name, value in update.networks.items())
