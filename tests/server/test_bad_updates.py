"""A site whose update is bad is left out of the round and named; what it raised stays with it."""

import logging
from collections.abc import Callable, Iterable

import pytest
import torch
from flwr.app import Context, Message, RecordDict

from lavq_core.errors import RunError
from lavq_core.runs.layout import RunFolder
from server.model import SharedModel
from simulations.inprocess import InProcessGrid
from tests.packed import opened
from tests.server.bad_updates import (
    broken,
    cut_short,
    extra_key,
    lying,
    nan,
    no_networks,
    wrong_dtype,
    wrong_shape,
)

GridOf = Callable[..., InProcessGrid]


@pytest.mark.parametrize("change", [nan, wrong_shape, wrong_dtype, extra_key, lying, no_networks, cut_short])
def test_a_bad_update_is_left_out_and_named(federation, grid_of: GridOf, model: SharedModel, change) -> None:
    final = federation.run(grid_of({1: broken(change)}))
    torch.testing.assert_close(final.detector["head.bias"], model.detector["head.bias"] + (1 * 1 + 3 * 3) / 4)
    status = {event["site"]: event["status"] for event in federation.events("site-replied")}
    assert status["site-1"].startswith("rejected: ")
    assert (status["site-0"], status["site-2"]) == ("ok", "ok")
    assert federation.events("round-finished")[0]["sites"] == 2
    assert "Jane" not in federation.run_folder.events.read_text()


def test_a_site_whose_update_is_of_another_size_is_left_out_and_named(
    federation, grid_of: GridOf, model: SharedModel
) -> None:
    def huge(content: RecordDict) -> None:
        with opened(content) as parts:
            parts["detector"]["head.bias"] = torch.full((2,), 1e6)

    final = federation.run(grid_of({1: broken(huge)}))
    assert federation.events("site-left-out") == [
        {
            "event": "site-left-out",
            "round": 1,
            "site": "site-1",
            "status": "rejected: the norm of its detector is more than 10 times the round's median",
        }
    ]
    torch.testing.assert_close(final.detector["head.bias"], model.detector["head.bias"] + (1 * 1 + 3 * 3) / 4)
    federation.run_folder = RunFolder(federation.run_folder.root.parent / "again")
    with pytest.raises(RunError, match="only 2 of 3 sites gave a usable update in round 1"):
        federation.run(grid_of({1: broken(huge)}), min_sites=3)


def test_a_site_that_failed_is_asked_again_next_round(federation, grid_of: GridOf) -> None:
    rounds = iter([True, False])

    def once(content: RecordDict) -> None:
        if next(rounds):
            nan(content)

    federation.run(grid_of({2: broken(once)}), rounds=2)
    status = [event["status"] for event in federation.events("site-replied") if event["site"] == "site-2"]
    assert status[0].startswith("rejected")
    assert status[1] == "ok"


def test_the_text_of_a_sites_exception_stays_at_the_site(
    federation, grid_of: GridOf, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)

    def raises(message: Message, context: Context) -> RecordDict:
        raise KeyError("patient Jane Doe, born 1950")

    grid = grid_of({0: raises})
    replies: list[Message] = []
    pull = grid.pull_messages

    def tapped(message_ids: Iterable[str]) -> Iterable[Message]:
        found = list(pull(message_ids))
        replies.extend(found)
        return found

    grid.pull_messages = tapped  # type: ignore[method-assign]
    federation.run(grid)
    failed = [event for event in federation.events("site-replied") if event["site"] == "site-0"]
    assert [(event["status"], event["bytes_up"], event["examples"]) for event in failed] == [
        ("failed: KeyError", 0, None)
    ]
    captured = capfd.readouterr()
    for text in (
        repr(replies),
        federation.run_folder.events.read_text(),
        caplog.text,
        captured.out,
        captured.err,
    ):
        assert "Jane" not in text
