"""The in-process grid is Flower without processes: same apps, same messages, one order."""

import shlex
from collections.abc import Iterable

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from server.flower_adapter import acting_as_server
from simulations.inprocess import RUN_ID, InProcessGrid, run_in_process


def content(number: int) -> RecordDict:
    return RecordDict({"metrics": MetricRecord({"number": number})})


def send(grid: Grid, numbers: Iterable[int], kind: str = "train") -> list[Message]:
    """Send one number to each site, in the order of sites."""
    with acting_as_server(RUN_ID):
        messages = [
            Message(content(number), node, kind) for node, number in zip(grid.get_node_ids(), numbers, strict=True)
        ]
        return list(grid.send_and_receive(messages))


@pytest.fixture
def adder() -> ClientApp:
    """A site that adds what it is sent to what it has kept, and answers with the sum."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        kept = context.state.metric_records.get("sum", MetricRecord({"value": 0}))
        total = int(kept["value"]) + int(message.content["metrics"]["number"])  # type: ignore[arg-type]
        context.state["sum"] = MetricRecord({"value": total})
        return Message(content(total), reply_to=message)

    @app.query()
    def who(message: Message, context: Context) -> Message:
        answer = ConfigRecord({**context.node_config, **context.run_config, "node": context.node_id})
        return Message(RecordDict({"answer": answer}), reply_to=message)

    return app


def test_each_site_knows_its_partition_and_the_run_config(adder: ClientApp) -> None:
    grid = InProcessGrid(adder, 3, {"overrides": "a=1"})
    answers = [dict(reply.content["answer"]) for reply in send(grid, [0, 0, 0], "query")]
    assert answers == [
        {"partition-id": i, "num-partitions": 3, "overrides": "a=1", "node": node}
        for i, node in enumerate(grid.get_node_ids())
    ]


def test_a_site_keeps_its_own_context_from_message_to_message(adder: ClientApp) -> None:
    grid = InProcessGrid(adder, 2, {})
    send(grid, [1, 10])
    replies = send(grid, [2, 20])
    assert [reply.content["metrics"]["number"] for reply in replies] == [3, 30]


def test_replies_name_their_message_and_their_site(adder: ClientApp) -> None:
    grid = InProcessGrid(adder, 2, {})
    with acting_as_server(RUN_ID):
        nodes = list(grid.get_node_ids())
        ids = list(grid.push_messages([Message(content(1), node, "train") for node in nodes]))
    assert len(set(ids)) == 2
    second, first = (next(iter(grid.pull_messages([item]))) for item in reversed(ids))
    assert [first.metadata.reply_to_message_id, second.metadata.reply_to_message_id] == ids
    assert [first.metadata.src_node_id, second.metadata.src_node_id] == nodes
    assert list(grid.pull_messages(ids)) == []


def test_sites_share_no_memory_with_the_server_or_each_other() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        number = message.content["metrics"]["number"]
        message.content["metrics"]["number"] = -1
        message.content["stolen"] = ArrayRecord()
        return Message(content(number), reply_to=message)  # type: ignore[arg-type]

    grid = InProcessGrid(app, 2, {})
    shared = content(5)
    with acting_as_server(RUN_ID):
        replies = list(grid.send_and_receive([Message(shared, node, "train") for node in grid.get_node_ids()]))
    assert [reply.content["metrics"]["number"] for reply in replies] == [5, 5]
    assert shared == content(5)


def test_an_exception_comes_back_as_its_class_only() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        raise LookupError("patient Jane Doe")

    (reply,) = send(InProcessGrid(app, 1, {}), [1])
    assert reply.has_error()
    assert reply.error.reason == "LookupError"
    assert "Jane" not in repr(reply)


def test_nothing_runs_before_its_reply_is_asked_for(adder: ClientApp) -> None:
    grid = InProcessGrid(adder, 1, {})
    (node,) = grid.get_node_ids()
    with acting_as_server(RUN_ID):
        list(grid.push_messages([Message(content(100), node, "train")]))
        replies = list(grid.send_and_receive([Message(content(1), node, "train")]))
    assert replies[0].content["metrics"]["number"] == 1


@pytest.mark.parametrize("overrides", [[], ["a=1", "run.dir='/tmp/a b'", 'x="it\'s"']])
def test_both_apps_read_the_same_overrides(adder: ClientApp, overrides: list[str]) -> None:
    seen: list[list[str]] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        seen.append(shlex.split(str(context.run_config["overrides"])))
        messages = [Message(RecordDict(), node, "query") for node in grid.get_node_ids()]
        for reply in grid.send_and_receive(messages):
            seen.append(shlex.split(str(reply.content["answer"]["overrides"])))

    run_in_process(overrides, 2, server, adder)
    assert seen == 3 * [overrides]


def test_the_servers_exception_comes_through(adder: ClientApp) -> None:
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        raise ZeroDivisionError("on purpose")

    with pytest.raises(ZeroDivisionError, match="on purpose"):
        run_in_process([], 1, server, adder)
