"""A site that failed is asked again in time; enough sites are enough; what comes late is dropped and named."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from lavq_core.config import compose
from lavq_core.errors import ConfigError
from lavq_core.runs.events import EventLog, read_events
from server.exchange import Exchange, Question
from server.flower_adapter import acting_as_server
from server.validation import ReplyError
from simulations.inprocess import RUN_ID, InProcessGrid

Site = Callable[[Message, Context], RecordDict]


@pytest.fixture(autouse=True)
def server_process() -> Iterator[None]:
    with acting_as_server(RUN_ID):
        yield


def question(read: Callable[[RecordDict], Any] = lambda content: "read", **more: Any) -> Question[Any]:
    return Question("train", RecordDict({"x": ArrayRecord()}), read, 3, **{"timeout": 5.0, **more})


def echo(message: Message, context: Context) -> RecordDict:
    return message.content


def failing(times: int) -> Site:
    left = iter([True] * times)

    def site(message: Message, context: Context) -> RecordDict:
        if next(left, False):
            raise OSError("patient Jane Doe")
        return message.content

    return site


def ask(
    tmp_path: Path, grid: InProcessGrid, retries: int = 1, what: Question[Any] | None = None
) -> tuple[list[tuple[str, str, int]], list[dict[str, Any]], Exchange]:
    exchange = Exchange(grid, EventLog(tmp_path / "events.jsonl"), retries)
    sites = {node: f"site-{node - 2}" for node in grid.get_node_ids()}
    answers = [(a.site, a.status, a.attempts) for a in exchange.ask(sites, what or question())]
    return sorted(answers), read_events(tmp_path / "events.jsonl"), exchange


def test_a_site_that_failed_once_is_asked_again_and_counts(tmp_path: Path, client_app) -> None:
    grid = InProcessGrid(client_app({0: failing(1), 1: echo}), 2, {})
    answers, events, _ = ask(tmp_path, grid)
    assert answers == [("site-0", "ok", 2), ("site-1", "ok", 1)]
    (again,) = events
    assert (again["event"], again["round"], again["site"], again["status"]) == (
        "site-asked-again", 3, "site-0", "failed: OSError"
    )  # fmt: skip


@pytest.mark.parametrize("retries", [0, 1])
def test_a_site_is_asked_no_more_often_than_the_setting_says(tmp_path: Path, client_app, retries: int) -> None:
    answers, events, _ = ask(tmp_path, InProcessGrid(client_app({0: failing(9)}), 1, {}), retries)
    assert answers == [("site-0", "failed: OSError", retries + 1)]
    assert len(events) == retries


def test_every_attempt_counts_in_the_bytes(tmp_path: Path, client_app) -> None:
    exchange = Exchange(InProcessGrid(client_app({0: failing(1)}), 1, {}), EventLog(tmp_path / "e"), 1)
    (twice,) = exchange.ask({2: "site-0"}, question())
    (once,) = exchange.ask({2: "site-0"}, question())
    assert twice.bytes_down == 2 * once.bytes_down > 0


def test_a_reply_that_was_rejected_is_not_asked_for_again(tmp_path: Path, client_app) -> None:
    def reject(content: RecordDict) -> None:
        raise ReplyError("it holds a NaN")

    answers, events, _ = ask(tmp_path, InProcessGrid(client_app({0: echo}), 1, {}), 3, question(reject))
    assert answers == [("site-0", "rejected: it holds a NaN", 1)]
    assert events == []


def test_a_message_that_could_not_be_sent_is_sent_again(tmp_path: Path, client_app) -> None:
    class Shaky(InProcessGrid):
        pushed = 0

        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            self.pushed += 1
            return [] if self.pushed == 1 else super().push_messages(messages)

    answers, events, _ = ask(tmp_path, Shaky(client_app({0: echo}), 1, {}))
    assert answers == [("site-0", "ok", 2)]
    assert events[0]["status"] == "failed: the message could not be sent"


def test_retries_end_with_the_rounds_time(tmp_path: Path, client_app) -> None:
    began = time.monotonic()
    answers, _, _ = ask(tmp_path, InProcessGrid(client_app({0: failing(9)}), 1, {}), 9, question(timeout=0.7))
    assert time.monotonic() - began < 3.0
    assert answers == [("site-0", "failed: OSError", 2)]  # at once and half a second later


class Held(InProcessGrid):
    """The last site keeps its reply until it is let go."""

    let_go = False

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        def ready(item: str) -> bool:
            message = self._waiting.get(item)
            return message is not None and (self.let_go or message.metadata.dst_node_id != 4)

        return super().pull_messages([item for item in message_ids if ready(item)])


@pytest.fixture
def held(client_app: Callable[..., ClientApp]) -> Held:
    return Held(client_app(dict.fromkeys(range(3), echo)), 3, {})


def test_enough_sites_are_enough_after_a_short_grace(tmp_path: Path, held: Held) -> None:
    began = time.monotonic()
    answers, _, _ = ask(tmp_path, held, what=question(timeout=60.0, enough=2))
    assert 1.0 <= time.monotonic() - began < 10.0
    assert answers[:2] == [("site-0", "ok", 1), ("site-1", "ok", 1)]
    assert answers[2] == ("site-2", "failed: no reply when enough others had replied", 1)


def test_who_replies_within_the_grace_still_counts(tmp_path: Path, client_app) -> None:
    answers, _, _ = ask(
        tmp_path, InProcessGrid(client_app(dict.fromkeys(range(3), echo)), 3, {}), what=question(enough=1)
    )
    assert [status for _, status, _ in answers] == ["ok"] * 3


def test_a_reply_after_the_wait_is_dropped_and_named(tmp_path: Path, held: Held) -> None:
    _, _, exchange = ask(tmp_path, held, what=question(timeout=60.0, enough=2))
    held.let_go = True
    late = list(exchange._overdue)
    held._waiting = {late[0]: held._waiting[late[0]]}

    class Silent(Held):
        """Takes a message and never works on it, while the late one is answered."""

        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            return ["never" for _ in messages]

    held.__class__ = Silent
    reads: list[RecordDict] = []
    (answer,) = exchange.ask({2: "site-0"}, question(reads.append, timeout=0.3))
    assert answer.status == "failed: no reply within 0.3 s"
    assert reads == []
    (dropped,) = read_events(tmp_path / "events.jsonl")
    assert (dropped["event"], dropped["site"], dropped["round"], dropped["message"]) == (
        "reply-dropped", "site-2", 3, "train"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "named"), [(["federation.enough=2"], "enough"), (["federation.retries=-1"], "retries")]
)
def test_impossible_values_are_refused(overrides: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=f"federation.{named} must"):
        compose(overrides)  # min_sites is 3 of 4
