"""A whole run: the numbers it ends with, what its log tells, and when it ends without them."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from flwr.app import Message

from lavq_core.errors import RunError
from lavq_core.models.codebook import STATISTICS, merge_statistics
from lavq_core.runs.artefact import load_artefact
from server.model import SharedModel
from simulations.inprocess import InProcessGrid
from tests.server.bad_updates import broken, lying, nan

GridOf = Callable[..., InProcessGrid]


def test_two_rounds_give_the_hand_computed_model(federation, grid_of: GridOf, model: SharedModel) -> None:
    final = federation.run(grid_of(), rounds=2)
    # Site i adds i + 1 with weight 10 (i + 1): the mean step is (1*1 + 2*2 + 3*3) / 6 a round.
    for start, trained in ((model.detector, final.detector), (model.networks, final.networks)):
        assert start.keys() == trained.keys()
        for name, weights in start.items():
            torch.testing.assert_close(trained[name], weights + 2 * 14 / 6)
    # Every statistic grows by 1 + 2 + 3 a round, the sums by half of it.
    codebook = model.codebook
    for _ in range(2):
        fresh = {name: torch.full_like(codebook[name], 3.0 if name == "sums" else 6.0) for name in STATISTICS}
        codebook = merge_statistics(codebook, [fresh])
    for name, value in codebook.items():
        torch.testing.assert_close(final.codebook[name], value)


def test_the_log_tells_the_whole_run(federation, grid_of: GridOf) -> None:
    federation.run(grid_of(), rounds=2)
    events = federation.events()
    assert [event["event"] for event in events] == [
        "run-started",
        *3 * ["site-joined"],
        *2 * ["round-started", *3 * ["site-replied"], *3 * ["site-evaluated"], "round-finished"],
        "run-finished",
    ]
    assert events[0] == {"event": "run-started", "rounds": 2, "sites": 3}
    assert [event["site"] for event in events[1:4]] == ["site-0", "site-1", "site-2"]
    replied = events[5]
    fields = {"round", "site", "status", "bytes_down", "bytes_up", "seconds", "examples", "attempts"}
    assert set(replied) == {"event", *fields}
    assert (replied["round"], replied["site"], replied["status"], replied["examples"]) == (1, "site-0", "ok", 10)
    finished = federation.events("round-finished")
    assert [(event["round"], event["sites"]) for event in finished] == [(1, 3), (2, 3)]
    assert all(event["seconds"] >= 0 for event in [*finished, events[-1]])


def test_a_strategys_memory_is_in_the_checkpoint(federation, grid_of: GridOf) -> None:
    federation.run(grid_of(), strategy="fedadam")
    memory = load_artefact(federation.run_folder.checkpoint(1))[0]["strategy"]
    assert {name.split("/")[0] for name in memory} == {
        f"{k}.{part}" for k in ("first", "second") for part in ("detector", "networks")
    }
    assert "strategy" not in load_artefact(federation.run_folder.model)[0]


def test_a_weight_beyond_the_largest_share_is_cut_and_told(federation, grid_of: GridOf, model: SharedModel) -> None:
    final = federation.run(grid_of(), max_weight_share=0.4)
    (cut,) = federation.events("site-weight-cut")
    assert cut == {"event": "site-weight-cut", "round": 1, "site": "site-2", "declared": 0.5, "counted": 0.4}
    torch.testing.assert_close(final.detector["head.bias"], model.detector["head.bias"] + (1 * 1 + 2 * 2 + 3 * 2) / 5)


def test_too_few_good_replies_end_the_run(federation, grid_of: GridOf) -> None:
    with pytest.raises(
        RunError, match=r"only 1 of 3 sites gave a usable update in round 1 and federation\.min_sites is 2"
    ):
        federation.run(grid_of({0: broken(nan), 1: broken(lying)}))
    last = federation.events()[-1]
    assert last["event"] == "run-failed"
    assert re.search("only 1 of 3 sites", last["reason"])
    assert not federation.run_folder.model.exists()


def test_any_exception_is_logged_as_the_runs_end(federation, grid_of: GridOf) -> None:
    grid = grid_of()

    def broken_pull(message_ids: Iterable[str]) -> Iterable[Message]:
        raise OSError("the link is\ndown")

    grid.pull_messages = broken_pull  # type: ignore[method-assign]
    with pytest.raises(OSError, match="link"):
        federation.run(grid)
    assert federation.events()[-1] == {"event": "run-failed", "reason": "OSError: the link is down"}


def test_fewer_sites_than_expected_are_enough_for_the_quorum(federation, grid_of: GridOf) -> None:
    federation.run(grid_of(sites=2), join_timeout=0.3)
    assert [event["site"] for event in federation.events("site-joined")] == ["site-0", "site-1"]


def test_too_few_sites_end_the_run_before_it_starts(federation, grid_of: GridOf) -> None:
    with pytest.raises(RunError, match=r"only 1 of 3 sites joined within 0\.3 s .*num-supernodes=3"):
        federation.run(grid_of(sites=1), join_timeout=0.3)
    assert federation.events()[-1]["event"] == "run-failed"


def test_two_sites_of_one_name_are_both_left_out(federation, grid_of: GridOf) -> None:
    federation.run(grid_of(names={0: "here", 1: "twin", 2: "twin", 3: "there"}, sites=4), sites=4)
    assert [event["site"] for event in federation.events("site-joined")] == ["here", "there"]
    rejected = [event for event in federation.events("site-replied") if event["round"] == 0]
    assert [event["status"] for event in rejected] == 2 * ["rejected: the name is not unique"]


def test_the_same_federation_twice_gives_the_same_bits(federation, grid_of: GridOf, tmp_path: Path) -> None:
    first = federation.run(grid_of(), rounds=2)
    federation.run_folder = type(federation.run_folder)(tmp_path / "again")
    second = federation.run(grid_of(), rounds=2)
    for name, state in first.parts().items():
        assert all(torch.equal(second.parts()[name][key], value) for key, value in state.items())
