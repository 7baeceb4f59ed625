"""A run that was killed, whenever, goes on and ends with the numbers of one that was not."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterable
from functools import partial, partialmethod
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from lavq_core.errors import ConfigError, RunError
from lavq_core.models.codebook import STATISTICS
from lavq_core.runs import artefact
from lavq_core.runs.artefact import load_artefact
from lavq_core.runs.events import EventLog, read_events, standing_events
from lavq_core.runs.layout import RunFolder
from lavq_core.runs.lock import held
from server.checkpoints import Checkpoint, Checkpoints
from server.model import SharedModel
from server.packing import PARTS, pack
from simulations.inprocess import InProcessGrid, run_in_process
from tests.packed import states

GridOf = Callable[..., InProcessGrid]
ROUNDS = 2


def assert_same(first: SharedModel, second: SharedModel) -> None:
    assert first.parts().keys() == second.parts().keys()
    for name, state in first.parts().items():
        assert state.keys() == second.parts()[name].keys()
        assert all(torch.equal(value, second.parts()[name][key]) for key, value in state.items())


def told(run: RunFolder) -> list[tuple[Any, ...]]:
    """What the log of a run says in the end, but for bytes, seconds and who joined when."""
    events = standing_events(read_events(run.events))
    done = [event for event in events if event.get("round") and event["event"] != "run-resumed"]
    return [(event["event"], event["round"], event.get("site"), event.get("examples")) for event in done]


# --- killed ----------------------------------------------------------------------------------------------------------


def killed_at(moment: int, run: Callable[[], object]) -> bool:
    """Do something in a child process that is killed before its ``moment``-th write or rename; whether it was."""

    def child() -> None:
        left = moment

        def counted(do: Callable[..., Any], *args: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return do(*args, **named)

        def counted_write(log: EventLog, write: Callable[..., None], event: str, **fields: Any) -> None:
            counted(write, log, event, **fields)

        artefact.save_file = partial(counted, artefact.save_file)  # type: ignore[assignment]
        os.rename = partial(counted, os.rename)  # type: ignore[assignment]
        EventLog.write = partialmethod(counted_write, EventLog.write)  # type: ignore[assignment, method-assign]
        run()

    process = get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def test_killed_before_any_write_a_run_ends_with_the_same_bits(federation, grid_of: GridOf, tmp_path: Path) -> None:
    """Between two rounds, between two files of a checkpoint, before its rename: moments three writes apart."""
    unbroken = federation.run(grid_of(), rounds=ROUNDS)
    expected = told(federation.run_folder)
    moment, killed = -1, True
    while killed:
        moment += 3
        federation.run_folder = RunFolder(tmp_path / f"killed-{moment}")
        killed = killed_at(moment, lambda: federation.run(grid_of(), rounds=ROUNDS))
        if killed and federation.run_folder.events.exists() and told(federation.run_folder) != expected:
            assert_same(federation.resume(grid_of(), rounds=ROUNDS), unbroken)
        if federation.run_folder.model.exists():
            assert told(federation.run_folder) == expected
    assert moment > 30  # 9 events, 3 files and a rename a round


def test_killed_again_and_again_it_still_ends_with_the_same_bits(federation, grid_of: GridOf, tmp_path: Path) -> None:
    unbroken = federation.run(grid_of(), rounds=ROUNDS)
    federation.run_folder = RunFolder(tmp_path / "killed")
    assert killed_at(12, lambda: federation.run(grid_of(), rounds=ROUNDS))
    for moment in (4, 14, 17):
        assert killed_at(moment, lambda: federation.resume(grid_of(), rounds=ROUNDS))
    assert_same(federation.resume(grid_of(), rounds=ROUNDS), unbroken)
    resumed = federation.events("run-resumed")
    assert [event["round"] for event in resumed] == [0, 0, 1, 2]


# --- what goes on, and what does not ---------------------------------------------------------------------------------


class Lost(InProcessGrid):
    """A grid whose link goes down in round 3."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        if any(message.metadata.group_id == "3" for message in messages):
            raise OSError("the link is down")
        return super().push_messages(messages)


@pytest.fixture
def broken_off(federation, grid_of: GridOf, client_app: Callable[..., ClientApp]) -> SharedModel:
    """A run that failed in round 3 of 3; returns what it should have ended with."""
    folder = federation.run_folder
    federation.run_folder = RunFolder(folder.root.with_name("unbroken"))
    unbroken: SharedModel = federation.run(grid_of(), rounds=3)
    federation.run_folder = folder
    with pytest.raises(OSError, match="link"):
        federation.run(Lost(client_app(), 3, {}), rounds=3)
    return unbroken


def test_a_run_that_failed_goes_on_after_its_last_round(federation, grid_of: GridOf, broken_off: SharedModel) -> None:
    assert_same(federation.resume(grid_of(), rounds=3), broken_off)
    kinds = [event["event"] for event in federation.events()]
    assert kinds[kinds.index("run-failed") :][:5] == ["run-failed", "run-resumed", *3 * ["site-joined"]]
    assert [event["round"] for event in federation.events("round-started")] == [1, 2, 3, 3]
    (finished,) = federation.events("run-finished")
    history = load_artefact(federation.run_folder.checkpoint(3))[1]["history"]
    assert [done["round"] for done in history] == [1, 2, 3]
    assert finished["seconds"] >= history[-1]["seconds"] >= history[0]["seconds"] > 0


def flip(folder: Path) -> None:
    file = folder / "detector.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")


def cut(folder: Path) -> None:
    file = folder / "codebook.safetensors"
    file.write_bytes(file.read_bytes()[:10])


def lose_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def of_another_round(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["about"]["round"] = 1
    (folder / "manifest.json").write_text(json.dumps(manifest))


def of_another_model(folder: Path) -> None:
    parts, about = load_artefact(folder)
    parts["detector"]["head.bias"] = torch.zeros(5)
    artefact.save_artefact(folder, parts, about)


@pytest.mark.parametrize("damage", [flip, cut, lose_manifest, of_another_round, of_another_model])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(
    federation, grid_of: GridOf, broken_off: SharedModel, damage: Callable[[Path], None]
) -> None:
    damage(federation.run_folder.checkpoint(2))
    assert_same(federation.resume(grid_of(), rounds=3), broken_off)
    (rejected,) = federation.events("checkpoint-rejected")
    assert rejected["round"] == 2
    assert "round-002" in rejected["reason"]
    assert federation.events("run-resumed")[0]["round"] == 1
    assert load_artefact(federation.run_folder.checkpoint(2))[1]["round"] == 2  # written anew


def test_without_a_whole_checkpoint_it_starts_again_and_says_so(
    federation, grid_of: GridOf, broken_off: SharedModel
) -> None:
    for number in (1, 2):
        flip(federation.run_folder.checkpoint(number))
    assert_same(federation.resume(grid_of(), rounds=3), broken_off)
    assert [event["round"] for event in federation.events("checkpoint-rejected", "run-resumed")] == [2, 1, 0]


def test_a_finished_run_says_so_and_is_left_alone(federation, grid_of: GridOf) -> None:
    federation.run(grid_of())
    before = federation.run_folder.events.read_text()
    with pytest.raises(RunError, match="has finished: there is nothing to go on with"):
        federation.resume(grid_of())
    assert federation.run_folder.events.read_text() == before


def test_what_a_strategy_remembers_comes_back_to_the_last_bit(tmp_path: Path, model: SharedModel) -> None:
    checkpoints = Checkpoints(RunFolder(tmp_path), 4, {})
    memory = {"first.stem": torch.randn(3), "state": torch.Generator().get_state()}
    checkpoints.save_round(Checkpoint(model, 2, memory, [{"round": 2, "sites": [], "seconds": 1.5}]))
    found = checkpoints.newest(model, lambda number, reason: pytest.fail(reason))
    assert (found.round, found.seconds) == (2, 1.5)
    assert found.memory.keys() == memory.keys()
    assert all(torch.equal(found.memory[name], value) for name, value in memory.items())
    assert_same(found.model, model)


# --- as a setting ----------------------------------------------------------------------------------------------------

SMALL = ["federation.sites=2", "federation.min_sites=2", "federation.rounds=1", "detector.width=8", "codebook.size=4"]


@pytest.fixture
def started(tmp_path: Path, client_app: Callable[..., ClientApp]) -> list[str]:
    """Overrides of a run that failed in its first round."""
    overrides = [f"run.dir='{tmp_path}/run'", "federation.round_timeout=5", *SMALL]

    def fails(message: Message, context: Context) -> RecordDict:
        raise KeyError

    with pytest.raises(RunError, match="gave a usable update"):
        run_in_process(overrides, 2, client_app=client_app({0: fails, 1: fails}))
    return overrides


def test_another_configuration_is_refused_and_the_difference_is_named(started: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        run_in_process([*started, "run.resume=true", "run.seed=9", "federation.round_timeout=7", "codebook.dim=16"], 2)
    assert "run.seed was 0 and is 9" in str(error.value)
    assert "codebook.dim was 32 and is 16" in str(error.value)
    assert "round_timeout" not in str(error.value)  # how long a server waits changes no figure


def test_there_must_be_a_run_to_go_on_with(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run to go on with"):
        run_in_process([f"run.dir='{tmp_path}/run'", "run.resume=true", *SMALL], 2)
    assert not (tmp_path / "run").exists()


def test_two_servers_do_not_work_in_one_folder(started: list[str], tmp_path: Path) -> None:
    with held(RunFolder(tmp_path / "run")), pytest.raises(RunError, match="a run is going on in"):
        run_in_process([*started, "run.resume=true"], 2)


def test_a_folder_that_was_moved_goes_on_where_it_is(
    started: list[str], tmp_path: Path, client_app: Callable[..., ClientApp]
) -> None:
    (tmp_path / "run").rename(tmp_path / "moved")

    def echo(message: Message, context: Context) -> RecordDict:
        parts = states(message.content)
        parts["codebook"] = {name: torch.zeros_like(parts["codebook"][name]) for name in STATISTICS}
        return RecordDict({PARTS: pack(parts), "metrics": MetricRecord({"num-examples": 1})})

    moved = [*started[1:], f"run.dir='{tmp_path}/moved'", "run.resume=true"]
    run_in_process(moved, 2, client_app=client_app({0: echo, 1: echo}))
    assert read_events(tmp_path / "moved" / "events.jsonl")[-1]["event"] == "run-finished"
