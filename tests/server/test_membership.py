"""Sites come late, go, and come back; a site is its name, wherever it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message
from flwr.clientapp import ClientApp

from lavq_core.errors import ConfigError, RunError
from lavq_core.runs.layout import RunFolder
from simulations.inprocess import InProcessGrid
from tests.packed import states


class Scheduled(InProcessGrid):
    """Nodes are connected by round; a round begins with the look for newcomers after the evaluation before."""

    def __init__(self, app: ClientApp, clients: int, plan: list[set[int]]) -> None:
        super().__init__(app, clients, {})
        self.plan, self.evaluated = plan, 0

    def get_node_ids(self) -> Iterable[int]:
        return sorted(self.plan[self.evaluated])

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        left = [message for message in self._waiting.values() if message.metadata.message_type == "evaluate"]
        if replies and replies[0].metadata.message_type == "evaluate" and not left:
            self.evaluated += self.evaluated + 1 < len(self.plan)
        return replies


def trained(federation: Any, number: int) -> list[str]:
    return [event["site"] for event in federation.events("site-replied") if event["round"] == number]


def comings(federation: Any) -> list[tuple[str, str]]:
    return [(e["event"], e["site"]) for e in federation.events("site-joined", "site-left", "site-returned")]


def test_a_site_that_comes_late_is_asked_its_name_and_gets_the_current_state(
    federation, client_app: Callable[..., ClientApp]
) -> None:
    received: dict[int, Message] = {}

    class Tapped(Scheduled):
        def _answer(self, message: Message) -> Message:
            if message.metadata.message_type == "train" and message.metadata.dst_node_id == 4:
                received[int(message.metadata.group_id)] = message
            return super()._answer(message)

    grid = Tapped(client_app(), 3, [{2, 3}, {2, 3, 4}])
    federation.run(grid, rounds=3, join_timeout=0.2)
    assert [trained(federation, number) for number in (1, 2, 3)] == [
        ["site-0", "site-1"], ["site-0", "site-1", "site-2"], ["site-0", "site-1", "site-2"]
    ]  # fmt: skip
    assert comings(federation) == [("site-joined", f"site-{number}") for number in range(3)]
    assert dict(received[2].content["round"]) == {"number": 2, "rounds": 3}
    start = federation.model.detector["head.bias"]
    assert (states(received[2].content)["detector"]["head.bias"] != start).all()


def test_a_site_that_has_gone_is_not_asked_until_it_is_back(federation, client_app) -> None:
    federation.run(Scheduled(client_app(), 3, [{2, 3, 4}, {2, 4}, {2, 3, 4}]), rounds=3)
    assert trained(federation, 2) == ["site-0", "site-2"]
    assert trained(federation, 3) == ["site-0", "site-1", "site-2"]
    assert comings(federation)[3:] == [("site-left", "site-1"), ("site-returned", "site-1")]


def test_a_site_at_another_node_is_known_by_its_name(federation, client_app) -> None:
    """Node 5 is the restarted node 3."""
    app = client_app(names={3: "site-1"})
    federation.run(Scheduled(app, 4, [{2, 3, 4}, {2, 4, 5}]), rounds=2)
    assert sorted(trained(federation, 2)) == ["site-0", "site-1", "site-2"]
    assert comings(federation)[3:] == [("site-returned", "site-1")]


def test_a_name_is_not_taken_from_a_site_that_is_connected(federation, client_app) -> None:
    app = client_app(names={3: "site-1"})
    examples = 20  # of the node that had the name first; the other one has 40
    federation.run(Scheduled(app, 4, [{2, 3, 4}, {2, 3, 4, 5}, {2, 4, 5}]), rounds=3)
    replied = [event for event in federation.events("site-replied") if event["site"] == "site-1"]
    assert [(event["round"], event.get("examples")) for event in replied] == [
        (1, examples), (0, None), (2, examples), (3, 40)
    ]  # fmt: skip
    assert replied[1]["status"] == "rejected: the name is not unique"


def test_a_node_has_the_name_of_its_key_and_no_other(federation, client_app, tmp_path: Path) -> None:
    """Node 3 gives the name of node 2's site, node 5 one that nobody else has; node 4 was never registered."""
    nodes = tmp_path / "nodes.json"
    nodes.write_text(json.dumps({2: "site-0", 3: "site-1", 5: "site-3"}))
    app = client_app(names={1: "site-0", 2: "site-2", 3: "site-9"})
    federation.run(InProcessGrid(app, 4, {}), sites=4, nodes=str(nodes), rounds=2)
    assert trained(federation, 1) == trained(federation, 2) == ["site-0", "site-2"]
    refused = [(e["site"], e["status"]) for e in federation.events("site-replied") if e["round"] == 0]
    assert refused == [(f"node-{node}", "rejected: the name is not that of its key's site") for node in (3, 5)]


def test_a_node_of_no_known_key_cannot_take_a_registered_name(federation, client_app, tmp_path: Path) -> None:
    nodes = tmp_path / "nodes.json"
    nodes.write_text(json.dumps({3: "site-1", 4: "site-2"}))
    app = client_app(names={0: "site-1"})
    federation.run(InProcessGrid(app, 3, {}), nodes=str(nodes))
    assert trained(federation, 1) == ["site-1", "site-2"]


def test_a_list_of_nodes_that_cannot_be_read_ends_the_run(federation, client_app, tmp_path: Path) -> None:
    nodes = tmp_path / "nodes.json"
    for text in ("", "[1, 2]", '{"node": "site-0"}'):
        nodes.write_text(text)
        federation.run_folder = RunFolder(tmp_path / f"run-{len(text)}")
        with pytest.raises(ConfigError, match="does not say which node is which site"):
            federation.run(InProcessGrid(client_app(), 3, {}), nodes=str(nodes))


def test_too_few_sites_left_end_the_run_before_the_round(federation, client_app) -> None:
    with pytest.raises(RunError, match="only 1 of 3 sites are connected before round 2"):
        federation.run(Scheduled(client_app(), 3, [{2, 3, 4}, {2}]), rounds=2, join_timeout=0.3)
    assert load_rounds(federation) == [1]


def load_rounds(federation: Any) -> list[int]:
    return list(federation.run_folder.checkpoints())


def test_a_node_that_never_says_its_name_holds_up_one_wait_only(federation, client_app) -> None:
    class Mute(InProcessGrid):
        asked = 0

        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            messages = list(messages)
            ids = list(super().push_messages(messages))
            if messages[0].metadata.dst_node_id == 4:
                self.asked += 1
                del self._waiting[ids[0]]
            return ids

    grid = Mute(client_app(), 3, {})
    federation.run(grid, rounds=3, join_timeout=0.3)
    assert grid.asked == 1
    assert trained(federation, 3) == ["site-0", "site-1"]


def test_a_name_that_comes_after_the_wait_is_as_good(federation, client_app) -> None:
    class Slow(InProcessGrid):
        held: str | None = None

        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            messages = list(messages)
            ids = list(super().push_messages(messages))
            if messages[0].metadata.dst_node_id == 4 and messages[0].metadata.message_type == "query.hello":
                self.held = ids[0]
            return ids

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            ids = list(message_ids)
            alone = ids == [self.held]
            replies = list(super().pull_messages([item for item in ids if item != self.held]))
            late = [] if alone or not any(item != self.held for item in ids) else super().pull_messages([self.held])  # type: ignore[list-item]
            return [*replies, *late]

    federation.run(Slow(client_app(), 3, {}), rounds=2, join_timeout=0.3)
    assert trained(federation, 2) == ["site-0", "site-1", "site-2"]


def test_one_site_is_a_federation(federation, grid_of) -> None:
    federation.run(grid_of(sites=1), sites=1, min_sites=1, rounds=2)
    assert trained(federation, 2) == ["site-0"]


def test_fifty_sites_wait_for_nobody(federation, grid_of) -> None:
    federation.run(grid_of(sites=50), sites=50, min_sites=50)
    assert len(trained(federation, 1)) == 50
