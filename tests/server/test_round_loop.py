"""A round goes on without a bad site and names it; without a quorum the run ends, loudly."""

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.common.serde import recorddict_to_proto

from lavq_core.errors import RunError
from lavq_core.models.codebook import STATISTICS, merge_statistics
from lavq_core.runs.artefact import load_artefact
from lavq_core.runs.layout import RunFolder
from server.model import SharedModel
from simulations.inprocess import InProcessGrid

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


def test_bytes_are_those_of_the_serialised_content(federation, client_app, model: SharedModel) -> None:
    crossed: list[tuple[str, int, int]] = []

    class Tapped(InProcessGrid):
        def _answer(self, message: Message) -> Message:
            down = len(recorddict_to_proto(message.content).SerializeToString())
            reply = super()._answer(message)
            up = len(recorddict_to_proto(reply.content).SerializeToString())
            crossed.append((message.metadata.message_type, down, up))
            return reply

    federation.run(Tapped(client_app(), 3, {}))
    for kind, event in (("train", "site-replied"), ("evaluate", "site-evaluated")):
        logged = [(kind, item["bytes_down"], item["bytes_up"]) for item in federation.events(event)]
        assert logged == [item for item in crossed if item[0] == kind]
    parameters = sum(value.numel() for part in model.parts().values() for value in part.values())
    assert federation.events("site-replied")[0]["bytes_down"] > 4 * parameters


def test_what_a_site_receives_is_the_model_and_the_round(federation, client_app) -> None:
    received: list[RecordDict] = []

    class Tapped(InProcessGrid):
        def _answer(self, message: Message) -> Message:
            if message.metadata.message_type == "train":
                received.append(message.content)
            return super()._answer(message)

    federation.run(Tapped(client_app(), 3, {}), rounds=2)
    assert len(received) == 6
    assert set(received[0]) == {"detector", "codebook", "networks", "round"}
    assert set(received[0]["codebook"]) == {"codes", *STATISTICS}
    assert dict(received[-1]["round"]) == {"number": 2, "rounds": 2}


def test_moments_travel_to_train_and_back_and_not_to_an_evaluation(federation, client_app) -> None:
    crossed: list[tuple[str, set[str], set[str]]] = []

    class Tapped(InProcessGrid):
        def _answer(self, message: Message) -> Message:
            down = set(message.content)
            reply = super()._answer(message)
            crossed.append((message.metadata.message_type, down, set(reply.content)))
            return reply

    kinds = {
        f"{k}.{name}": torch.zeros_like(v) for k in ("first", "second") for name, v in federation.model.detector.items()
    }
    federation.model = replace(federation.model, moments=kinds)
    final = federation.run(Tapped(client_app(), 3, {}))
    assert {kind: "moments" in down for kind, down, _ in crossed} == {
        "query.hello": False,
        "train": True,
        "evaluate": False,
    }
    assert all(("moments" in up) == (kind == "train") for kind, _, up in crossed)
    parts = load_artefact(federation.run_folder.checkpoint(1))[0]
    assert all(torch.equal(value, parts["moments"][name]) for name, value in final.moments.items())
    assert all(bool((value > 0).all()) for value in final.moments.values())


def test_a_strategys_memory_is_in_the_checkpoint(federation, grid_of: GridOf) -> None:
    federation.run(grid_of(), strategy="fedadam")
    memory = load_artefact(federation.run_folder.checkpoint(1))[0]["strategy"]
    assert {name.split("/")[0] for name in memory} == {
        f"{k}.{part}" for k in ("first", "second") for part in ("detector", "networks")
    }
    assert "strategy" not in load_artefact(federation.run_folder.model)[0]


def test_a_site_whose_update_is_of_another_size_is_left_out_and_named(
    federation, grid_of: GridOf, model: SharedModel
) -> None:
    def huge(content: RecordDict) -> None:
        content["detector"]["head.bias"] = Array(np.full(2, 1e6, np.float32))

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


def test_a_weight_beyond_the_largest_share_is_cut_and_told(federation, grid_of: GridOf, model: SharedModel) -> None:
    final = federation.run(grid_of(), max_weight_share=0.4)
    (cut,) = federation.events("site-weight-cut")
    assert cut == {"event": "site-weight-cut", "round": 1, "site": "site-2", "declared": 0.5, "counted": 0.4}
    torch.testing.assert_close(final.detector["head.bias"], model.detector["head.bias"] + (1 * 1 + 2 * 2 + 3 * 2) / 5)


def test_a_federation_that_shares_no_network_sends_and_keeps_none(
    federation, client_app, private_networks: SharedModel
) -> None:
    crossed: list[RecordDict] = []

    class Tapped(InProcessGrid):
        def _answer(self, message: Message) -> Message:
            reply = super()._answer(message)
            if message.metadata.message_type == "train":
                crossed.extend([message.content, reply.content])
            return reply

    federation.model = private_networks
    final = federation.run(Tapped(client_app(), 3, {}))
    assert len(crossed) == 6
    assert all("networks" not in content for content in crossed)
    assert final.networks == {}
    assert {event["status"] for event in federation.events("site-replied")} == {"ok"}
    run = federation.run_folder
    assert all(set(load_artefact(folder)[0]) == {"detector", "codebook"} for folder in (run.checkpoint(1), run.model))


def broken(change: Callable[[RecordDict], None]) -> Callable[[Message, Context], RecordDict]:
    def site(message: Message, context: Context) -> RecordDict:
        records = message.content.array_records
        content = RecordDict(
            {
                "detector": records["detector"],
                "codebook": ArrayRecord(
                    {name: Array(np.zeros(records["codebook"][name].shape, np.float32)) for name in STATISTICS}
                ),
                "networks": records["networks"],
                "metrics": MetricRecord({"num-examples": 10}),
            }
        )
        change(content)
        return content

    return site


def nan(content: RecordDict) -> None:
    content["detector"]["head.bias"] = Array(torch.tensor([float("nan"), 0.0]).numpy())


def wrong_shape(content: RecordDict) -> None:
    content["detector"]["head.bias"] = Array(torch.zeros(3).numpy())


def wrong_dtype(content: RecordDict) -> None:
    content["detector"]["head.bias"] = Array(torch.zeros(2, dtype=torch.float64).numpy())


def extra_key(content: RecordDict) -> None:
    content["detector"]["report of Jane Doe"] = Array(torch.zeros(2).numpy())


def lying(content: RecordDict) -> None:
    content["metrics"]["num-examples"] = 10**9


def no_networks(content: RecordDict) -> None:
    del content["networks"]


@pytest.mark.parametrize("change", [nan, wrong_shape, wrong_dtype, extra_key, lying, no_networks])
def test_a_bad_update_is_left_out_and_named(federation, grid_of: GridOf, model: SharedModel, change) -> None:
    final = federation.run(grid_of({1: broken(change)}))
    torch.testing.assert_close(final.detector["head.bias"], model.detector["head.bias"] + (1 * 1 + 3 * 3) / 4)
    status = {event["site"]: event["status"] for event in federation.events("site-replied")}
    assert status["site-1"].startswith("rejected: ")
    assert (status["site-0"], status["site-2"]) == ("ok", "ok")
    assert federation.events("round-finished")[0]["sites"] == 2
    assert "Jane" not in federation.run_folder.events.read_text()


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


class Silent(InProcessGrid):
    """The last site takes its messages and never answers anything but hello."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        ids = list(super().push_messages(messages))
        for message, message_id in zip(messages, ids, strict=True):
            if message.metadata.dst_node_id == 4 and message.metadata.message_type != "query.hello":
                del self._waiting[message_id]
        return ids


def test_a_site_that_never_answers_costs_one_deadline(federation, client_app) -> None:
    federation.run(Silent(client_app(), 3, {}), round_timeout=0.3)
    (silent,) = [event for event in federation.events("site-replied") if event["site"] == "site-2"]
    assert silent["status"] == "failed: no reply within 0.3 s"
    assert 0.3 <= silent["seconds"] < 2.0
    assert (silent["bytes_up"], silent["examples"]) == (0, None)
    assert silent["bytes_down"] > 0


def test_a_message_that_cannot_be_sent_is_that_sites_failure(federation, client_app) -> None:
    class Refusing(InProcessGrid):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            kept = [message for message in messages if message.metadata.dst_node_id != 3]
            return super().push_messages(kept)

    federation.run(Refusing(client_app(), 3, {}))
    joined = [event["site"] for event in federation.events("site-joined")]
    assert joined == ["site-0", "site-2"]
    assert federation.events("site-replied")[0]["status"] == "failed: the message could not be sent"


def test_a_reply_belongs_to_the_site_that_was_asked(federation, client_app) -> None:
    """Replies in any order, and a second reply of one site, change nothing."""

    class Shuffled(InProcessGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            replies = [reply for item in list(message_ids) for reply in super(Shuffled, self).pull_messages([item])]
            return [*reversed(replies), *replies]

    federation.run(Shuffled(client_app(), 3, {}))
    examples = {event["site"]: event["examples"] for event in federation.events("site-replied")}
    assert examples == {"site-0": 10, "site-1": 20, "site-2": 30}


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


def test_every_round_leaves_a_readable_checkpoint(federation, grid_of: GridOf, model: SharedModel) -> None:
    final = federation.run(grid_of(), rounds=2)
    run = federation.run_folder
    first, about = load_artefact(run.checkpoint(1))
    (done,) = about.pop("history")
    assert about == {"seed": 0, "round": 1, "rounds": 2}
    assert (done["round"], done["sites"]) == (1, ["site-0", "site-1", "site-2"])
    torch.testing.assert_close(first["detector"]["head.bias"], model.detector["head.bias"] + 14 / 6)
    for folder in (run.checkpoint(2), run.model):
        parts, about = load_artefact(folder)
        assert about["round"] == 2
        assert set(parts) == {"detector", "codebook", "networks"}
        for name, state in final.parts().items():
            assert all(torch.equal(parts[name][key], value) for key, value in state.items())


def test_a_checkpoint_survives_a_failure_in_a_later_round(federation, grid_of: GridOf) -> None:
    rounds = iter([False, True])

    def later(content: RecordDict) -> None:
        if next(rounds):
            nan(content)

    with pytest.raises(RunError, match="round 2"):
        federation.run(grid_of({0: broken(later)}), rounds=2, min_sites=3)
    assert load_artefact(federation.run_folder.checkpoint(1))[1]["round"] == 1
    assert not federation.run_folder.checkpoint(2).exists()


def test_a_folder_that_holds_a_run_is_refused_and_left_alone(federation, grid_of: GridOf) -> None:
    federation.run(grid_of())
    before = federation.run_folder.events.read_text()
    with pytest.raises(RunError, match=r"holds a run already: give another run\.dir"):
        federation.run(grid_of())
    assert federation.run_folder.events.read_text() == before


def test_the_same_federation_twice_gives_the_same_bits(federation, grid_of: GridOf, tmp_path: Path) -> None:
    first = federation.run(grid_of(), rounds=2)
    federation.run_folder = type(federation.run_folder)(tmp_path / "again")
    second = federation.run(grid_of(), rounds=2)
    for name, state in first.parts().items():
        assert all(torch.equal(second.parts()[name][key], value) for key, value in state.items())
