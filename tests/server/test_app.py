"""The ServerApp turns a run config into a run folder."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from lavq_core.config import compose, load_config
from lavq_core.errors import ConfigError, RunError
from lavq_core.models.codebook import STATISTICS
from lavq_core.models.networks import make_networks
from lavq_core.privacy.statement import OFF
from lavq_core.runs.artefact import load_artefact
from lavq_core.runs.events import read_events
from lavq_core.runs.layout import RunFolder
from lavq_core.settings import SHAREABLE
from server.app import initial_model
from server.packing import PARTS, pack
from simulations.inprocess import run_in_process
from tests.packed import states

SMALL = ["federation.sites=2", "federation.min_sites=2", "federation.rounds=1", "detector.width=8", "codebook.size=4"]


def echo(message: Message, context: Context) -> RecordDict:
    """A site that learnt nothing and counted nothing."""
    parts = states(message.content)
    parts["codebook"] = {name: torch.zeros_like(parts["codebook"][name]) for name in STATISTICS}
    return RecordDict({PARTS: pack(parts), "metrics": MetricRecord({"num-examples": 1})})


def test_a_run_leaves_config_log_checkpoint_and_model(tmp_path: Path, client_app: Callable[..., ClientApp]) -> None:
    folder = tmp_path / "a run, with spaces"
    run_in_process([f"run.dir='{folder}'", "run.seed=3", *SMALL], 2, client_app=client_app({0: echo, 1: echo}))
    run = RunFolder.open(folder)
    assert load_config(run.config) == compose([f"run.dir='{folder}'", "run.seed=3", *SMALL])
    assert read_events(run.events)[-1]["event"] == "run-finished"
    parts, about = load_artefact(run.model)
    assert about == {
        "classes": ["NORM", "MI", "STTC", "CD", "HYP"],
        "privacy": OFF,
        "round": 1,
        "rounds": 1,
        "sampling_rate": 100,
        "seed": 3,
    }
    checkpoint = load_artefact(run.checkpoint(1))[1]
    assert [done["sites"] for done in checkpoint.pop("history")] == [["site-0", "site-1"]]
    assert checkpoint == about
    start = initial_model(load_config(run.config))
    for part in ("detector", "networks"):
        assert parts[part].keys() == start.parts()[part].keys()
        for name, value in start.parts()[part].items():
            torch.testing.assert_close(parts[part][name], value)


def test_the_first_model_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = initial_model(compose([*SMALL, "run.seed=5"]))
    torch.manual_seed(2)
    again = initial_model(compose([*SMALL, "run.seed=5"]))
    other = initial_model(compose([*SMALL, "run.seed=6"]))
    for part, state in first.parts().items():
        assert all(torch.equal(again.parts()[part][name], value) for name, value in state.items())
    assert not torch.equal(first.codebook["codes"], other.codebook["codes"])
    assert any(not torch.equal(first.detector[name], other.detector[name]) for name in first.detector)
    assert any(not torch.equal(first.networks[name], other.networks[name]) for name in first.networks)


@pytest.mark.parametrize("share", [["separator", "editor", "prior"], ["prior"], ["editor", "separator"], []])
def test_the_first_model_holds_the_networks_that_are_shared(share: list[str]) -> None:
    config = compose([*SMALL, f"federation.share={share}".replace("'", "")])
    networks = initial_model(config).networks
    assert {name.split(".")[0] for name in networks} == set(share)
    everything = make_networks(config, config.run.seed).state_dict()
    assert networks.keys() == {name for name in everything if name.split(".")[0] in share}
    assert all(torch.equal(value, everything[name]) for name, value in networks.items())


def test_all_networks_are_shared_unless_something_else_is_said() -> None:
    assert tuple(compose(SMALL).federation.share) == SHAREABLE


@pytest.mark.parametrize("where", ["", "runs/here"])
def test_a_run_folder_must_be_absolute(where: str, client_app: Callable[..., ClientApp]) -> None:
    with pytest.raises(ConfigError, match=r"run\.dir must be an absolute folder"):
        run_in_process([f"run.dir={shlex.quote(where)}", *SMALL], 2, client_app=client_app())


def test_a_used_folder_is_left_alone(tmp_path: Path, client_app: Callable[..., ClientApp]) -> None:
    overrides = [f"run.dir={tmp_path}", *SMALL]
    run_in_process(overrides, 2, client_app=client_app({0: echo, 1: echo}))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(RunError, match="holds a run already"):
        run_in_process([*overrides, "run.seed=9"], 2, client_app=client_app({0: echo, 1: echo}))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
