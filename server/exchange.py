"""One question to many sites: send, wait until a deadline, and give each answer to the site that it came from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from server.flower_adapter import payload_bytes
from server.validation import ReplyError, describe_error

T = TypeVar("T")
_POLL = (0.1, 1.0)  # s between two looks for replies: at first, and at most


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What became of one message.

    Attributes:
        node: node id that it went to.
        site: the site's name.
        status: ``ok``, ``failed: CLASS`` (the site's error, or no reply in time) or ``rejected: REASON``.
        value: the checked reply, None unless the status is ``ok``.
        bytes_down: content sent, see ``payload_bytes``.
        bytes_up: content that came back, 0 if none.
        seconds: from sending to having the reply.
    """

    node: int
    site: str
    status: str
    value: T | None
    bytes_down: int
    bytes_up: int
    seconds: float


@dataclass(frozen=True)
class Question(Generic[T]):
    """The same content for every site.

    Attributes:
        message_type: ``query.hello``, ``train`` or ``evaluate``.
        content: sent as it is.
        read: checks a reply's content and returns what is wanted of it; raises ``ReplyError``.
        round_number: 0 before the first round; names the message's group.
    """

    message_type: str
    content: RecordDict
    read: Callable[[RecordDict], T]
    round_number: int


def ask(grid: Grid, sites: Mapping[int, str], question: Question[T], timeout: float) -> Iterator[Answer[T]]:
    """Send a question and yield the answers as they arrive, the missing ones at the deadline.

    Replies are matched by the id of the message they answer. A second reply, or one to another message, is not looked
    at; the last look is at the deadline.

    Args:
        grid: Flower's grid.
        sites: name by node id.
        question: what to ask.
        timeout: s from now; it is also the messages' time to live.
    """
    start = time.monotonic()
    down = payload_bytes(question.content)
    pending: dict[str, tuple[int, float]] = {}
    for node in sites:
        message = Message(
            question.content,
            dst_node_id=node,
            message_type=question.message_type,
            ttl=float(timeout),
            group_id=str(question.round_number),
        )
        sent = time.monotonic()
        # One at a time: a grid may leave out an id that it could not take, and then ids no longer match messages.
        ids = [message_id for message_id in grid.push_messages([message]) if message_id]
        if ids:
            pending[ids[0]] = (node, sent)
        else:
            yield Answer(node, sites[node], "failed: the message could not be sent", None, 0, 0, 0.0)
    while pending:
        waited = time.monotonic() - start
        replies = list(grid.pull_messages(list(pending)))
        for reply in replies:
            found = pending.pop(reply.metadata.reply_to_message_id, None)
            if found is not None:
                node, sent = found
                yield _judge(reply, node, sites[node], question, down, time.monotonic() - sent)
        if waited >= timeout:
            break
        if not replies:
            time.sleep(min(_POLL[0] + 0.02 * waited, _POLL[1]))
    for node, sent in pending.values():
        status = f"failed: no reply within {timeout:g} s"
        yield Answer(node, sites[node], status, None, down, 0, time.monotonic() - sent)


def _judge(reply: Message, node: int, site: str, question: Question[T], down: int, seconds: float) -> Answer[T]:
    if not reply.has_content():
        return Answer(node, site, f"failed: {describe_error(reply.error)}", None, down, 0, seconds)
    up = payload_bytes(reply.content)
    try:
        return Answer(node, site, "ok", question.read(reply.content), down, up, seconds)
    except ReplyError as error:
        return Answer(node, site, f"rejected: {error}", None, down, up, seconds)
