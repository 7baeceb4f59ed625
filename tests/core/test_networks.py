"""Separator, editor and prior network are one thing on a site's disk, and three when it comes to what leaves it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lavq_core.config import compose, save_config
from lavq_core.errors import RunError
from lavq_core.models.codebook import initial_codebook
from lavq_core.models.detector import build_detector
from lavq_core.models.networks import Networks, beat_tokens, make_networks
from lavq_core.models.stored import load_networks, load_private, load_start, save_private
from lavq_core.runs.artefact import load_artefact, save_artefact
from lavq_core.runs.layout import RunFolder, rounds_in
from lavq_core.settings import SHAREABLE, Config


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def subsets() -> Iterator[tuple[str, ...]]:
    for size in range(len(SHAREABLE) + 1):
        yield from combinations(SHAREABLE, size)


# --- first weights ---------------------------------------------------------------------------------------------------


def test_every_site_starts_from_the_same_weights_ready_for_use(tiny: Config) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = make_networks(tiny, 0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert equal(make_networks(tiny, 0).state_dict(), first.state_dict())
    assert not torch.equal(make_networks(tiny, 1).separator.gate.weight, first.separator.gate.weight)
    assert not any(module.training for module in first.modules())


@pytest.mark.parametrize(("rate", "stride", "tokens"), [(100, 4, 24), (100, 8, 12), (500, 20, 24), (500, 40, 12)])
def test_a_beat_of_960_ms_has_as_many_tokens_as_strides(tiny: Config, rate: int, stride: int, tokens: int) -> None:
    tiny.data.sampling_rate, tiny.separator.stride = rate, stride
    assert beat_tokens(tiny) == tokens
    networks = make_networks(tiny, 0)
    x, valid = torch.zeros(2, 8, tokens * stride), torch.ones(2, tokens)
    memory, mask = torch.zeros(2, 1, tiny.text.width), torch.ones(2, 1, dtype=torch.bool)
    found = networks.separator(x, torch.zeros(2, 3), valid, memory, mask)
    assert networks.editor(x, torch.zeros(2, 3), found.gate, None).shape == x.shape
    drawn = networks.prior.sample(torch.zeros(2, 3), valid, memory, mask, torch.Generator().manual_seed(0))
    assert drawn.shape == found.gate.shape == (2, tokens)


@pytest.mark.parametrize("preset", ["sample", "ptbxl", "paper"])
def test_every_presets_networks_can_be_made(preset: str) -> None:
    assert isinstance(make_networks(compose([f"preset={preset}"]), 0), Networks)


# --- what is shared --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", list(subsets()))
def test_what_is_shared_is_the_weights_of_the_networks_named(tiny: Config, names: tuple[str, ...]) -> None:
    networks = make_networks(tiny, 0)
    shared = networks.shared(names)
    expected = {
        f"{name}.{key}": value for name in names for key, value in networks.get_submodule(name).state_dict().items()
    }
    assert equal(shared, expected)
    assert {key.split(".")[0] for key in shared} == set(names)
    assert not any(value.requires_grad for value in shared.values())


def test_all_of_them_are_everything(tiny: Config) -> None:
    networks = make_networks(tiny, 0)
    assert equal(networks.shared(SHAREABLE), dict(networks.state_dict()))


@pytest.mark.parametrize("names", list(subsets()))
def test_what_is_taken_over_replaces_those_networks_and_no_others(tiny: Config, names: tuple[str, ...]) -> None:
    server, site, before = (make_networks(tiny, seed) for seed in (0, 1, 1))
    site.take_over(server.shared(names))
    for name in SHAREABLE:
        model = server if name in names else before
        assert equal(site.get_submodule(name).state_dict(), model.get_submodule(name).state_dict())
    assert equal(server.state_dict(), make_networks(tiny, 0).state_dict())


def test_what_was_taken_over_is_a_copy(tiny: Config) -> None:
    server, site = make_networks(tiny, 0), make_networks(tiny, 1)
    site.take_over(server.shared(["editor"]))
    with torch.no_grad():
        site.editor.null.add_(1.0)
    assert equal(server.state_dict(), make_networks(tiny, 0).state_dict())


def test_weights_of_another_configuration_are_not_taken_over(tiny: Config) -> None:
    networks = make_networks(tiny, 0)
    with pytest.raises(RuntimeError, match=r"editor\.unknown"):
        networks.take_over({"editor.unknown": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="size mismatch"):
        networks.take_over({"editor.null": torch.zeros(tiny.codebook.dim + 1)})


# --- on the disk -----------------------------------------------------------------------------------------------------


def test_networks_survive_the_disk(tiny: Config, tmp_path: Path) -> None:
    networks = make_networks(tiny, 3).train()
    save_private(tmp_path / "private", networks, 5)
    back = load_private(tiny, tmp_path / "private")
    assert equal(back.state_dict(), networks.state_dict())
    assert not back.training
    _, about = load_artefact(tmp_path / "private" / "round-005")
    assert about["round"] == 5


def test_before_the_first_round_the_networks_are_those_that_everybody_starts_from(tiny: Config, tmp_path: Path) -> None:
    tiny.run.seed = 4
    assert equal(load_private(tiny, tmp_path / "nothing").state_dict(), make_networks(tiny, 4).state_dict())
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def run(tiny: Config, tmp_path: Path) -> RunFolder:
    """A finished run: the server shares editor and prior network, and two hospitals hold networks of their own."""
    folder = RunFolder(tmp_path / "run")
    save_config(tiny, folder.config)
    for seed, name in ((1, "site-a"), (2, "site-b")):
        save_private(folder.site(name).private_model, make_networks(tiny, seed), 8)
    folder.site("site-c").root.mkdir(parents=True)  # joined and left before its first round
    parts = {
        "detector": build_detector(tiny.detector, 100, 0).state_dict(),
        "codebook": initial_codebook(tiny.codebook, beat_tokens(tiny), 0),
        "networks": make_networks(tiny, 9).shared(["editor", "prior"]),
    }
    save_artefact(folder.model, parts, {"classes": []})
    return folder


@pytest.mark.parametrize(
    ("asked", "name", "seed"), [("", "site-a", 1), ("site-a", "site-a", 1), ("site-b", "site-b", 2)]
)
def test_a_hospital_uses_its_own_networks_and_the_shared_ones_of_the_last_round(
    run: RunFolder, tiny: Config, asked: str, name: str, seed: int
) -> None:
    networks, whose = load_networks(run, asked)
    assert whose == name
    assert equal(networks.separator.state_dict(), make_networks(tiny, seed).separator.state_dict())
    assert equal(networks.editor.state_dict(), make_networks(tiny, 9).editor.state_dict())
    assert equal(networks.prior.state_dict(), make_networks(tiny, 9).prior.state_dict())
    assert not networks.training


def test_a_hospital_that_trained_nothing_here_is_refused(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="unknown site 'site-c': choose one of site-a, site-b"):
        load_networks(run, "site-c")
    shutil.rmtree(run.root / "sites")
    with pytest.raises(RunError, match=r"no hospital in .* has trained an editor"):
        load_networks(run, "")


def test_where_every_network_is_shared_the_final_model_is_enough(run: RunFolder, tiny: Config) -> None:
    """As where a deployment's server folder is handed on: the hospitals' own folders are elsewhere."""
    shutil.rmtree(run.root / "sites")
    networks = make_networks(tiny, 9)
    parts, about = load_artefact(run.model)
    save_artefact(run.model, {**parts, "networks": networks.state_dict()}, about)
    loaded, whose = load_networks(run, "")
    assert equal(loaded.state_dict(), networks.state_dict())
    assert whose == "the federation"
    with pytest.raises(RunError, match="unknown site 'site-a': choose one of none, as no site is here"):
        load_networks(run, "site-a")


def test_networks_of_another_version_or_size_are_named(tiny: Config, tmp_path: Path) -> None:
    """A deployed site's folder outlives a run: what lies in it may be older than the program."""
    folder = tmp_path / "private"
    save_artefact(folder, {"separator": {}, "editor": {}}, {"round": 8})
    with pytest.raises(RunError, match=f"{folder} holds networks of another version or size: move it away"):
        load_private(tiny, folder)
    folder = tmp_path / "larger"
    save_private(folder, make_networks(tiny, 0), 1)
    tiny.separator.width *= 2
    with pytest.raises(RunError, match="another version or size"):
        load_private(tiny, folder)


def rounds_of(folder: Path) -> list[int]:
    return list(rounds_in(folder))


def test_a_round_that_is_trained_again_starts_from_what_it_started_from(tiny: Config, tmp_path: Path) -> None:
    """As when a server asks again, or goes back to its last checkpoint."""
    for number in (1, 2, 3):
        save_private(tmp_path, make_networks(tiny, number), number, {"moment": torch.tensor(float(number))})
    for number in (3, 2):  # the server's newest checkpoint was damaged, so that two rounds are done again
        assert equal(
            load_private(tiny, tmp_path, before=number).state_dict(), make_networks(tiny, number - 1).state_dict()
        )
        assert load_start(tiny, tmp_path, before=number)[1] == {"moment": torch.tensor(float(number - 1))}
    assert equal(load_private(tiny, tmp_path, before=1).state_dict(), make_networks(tiny, tiny.run.seed).state_dict())
    assert load_start(tiny, tmp_path, before=1)[1] == {}
    save_private(tmp_path, make_networks(tiny, 7), 2)
    assert rounds_of(tmp_path) == [1, 2]  # what was trained on from the old round 2 is gone


def test_a_site_keeps_its_last_rounds_and_says_when_they_do_not_go_back_far_enough(
    tiny: Config, tmp_path: Path
) -> None:
    for number in (2, 3, 5, 6, 8):  # it missed some rounds
        save_private(tmp_path, make_networks(tiny, number), number)
    assert rounds_of(tmp_path) == [5, 6, 8]
    assert equal(load_private(tiny, tmp_path, before=8).state_dict(), make_networks(tiny, 6).state_dict())
    with pytest.raises(RunError, match=r"no networks from before round 5: the federation went back further"):
        load_private(tiny, tmp_path, before=5)


def test_a_site_that_came_late_starts_its_first_round_again_from_the_beginning(tiny: Config, tmp_path: Path) -> None:
    save_private(tmp_path, make_networks(tiny, 9), 5)
    assert equal(load_private(tiny, tmp_path, before=5).state_dict(), make_networks(tiny, tiny.run.seed).state_dict())


def test_what_a_killed_write_left_goes_with_the_next(tiny: Config, tmp_path: Path) -> None:
    for rubbish in (".round-004.new-1", ".round-004.old-1"):
        (tmp_path / rubbish).mkdir()
    save_private(tmp_path, make_networks(tiny, 1), 4)
    assert [path.name for path in tmp_path.iterdir()] == ["round-004"]
