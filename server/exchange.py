"""One question to many sites: send, wait until a deadline, and give each answer to the site that it came from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from lavq_core.runs.events import EventLog
from server.flower_adapter import payload_bytes
from server.validation import ReplyError, describe_error

T = TypeVar("T")
_POLL = (0.1, 1.0)  # s between two looks for replies: at first, and at most
_PAUSE = 0.5  # s before a site is asked again; four times as long every further time
_GRACE = (1.0, 0.1)  # for those who are late when enough have replied: s at least, and share of the time so far
_UNSENT = "failed: the message could not be sent"


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What became of one question to one site.

    Attributes:
        node: node id that it went to.
        site: the site's name.
        status: ``ok``, ``failed: CLASS`` (the site's error, or no reply in time) or ``rejected: REASON``.
        value: the checked reply, None unless the status is ``ok``.
        bytes_down: content sent, see ``payload_bytes``; every attempt counts.
        bytes_up: content that came back, 0 if none.
        seconds: from first sending to having the reply.
        attempts: how often the site was asked.
        silent: nothing came back in time.
    """

    node: int
    site: str
    status: str
    value: T | None
    bytes_down: int
    bytes_up: int
    seconds: float
    attempts: int
    silent: bool = False

    def fields(self, examples: float | None = None) -> dict[str, object]:
        """Return what the event log says of it."""
        return {
            "site": self.site,
            "status": self.status,
            "bytes_down": self.bytes_down,
            "bytes_up": self.bytes_up,
            "seconds": round(self.seconds, 3),
            "examples": examples,
            "attempts": self.attempts,
        }


@dataclass(frozen=True)
class Question(Generic[T]):
    """The same content for every site.

    Attributes:
        message_type: ``query.hello``, ``train`` or ``evaluate``.
        content: sent as it is.
        read: checks a reply's content and returns what is wanted of it; raises ``ReplyError``.
        round_number: 0 before the first round; names the message's group.
        timeout: s to wait for the replies.
        lifetime: s that a message stays valid; 0: as long as the wait.
        enough: with so many usable replies, the others have only a short grace; 0: wait for all.
        late: given node and value of a good reply that comes after the wait; None: it is dropped.
    """

    message_type: str
    content: RecordDict
    read: Callable[[RecordDict], T]
    round_number: int
    timeout: float
    lifetime: float = 0.0
    enough: int = 0
    late: Callable[[int, T], None] | None = None


@dataclass
class _Asked:
    """A site and where its question stands."""

    node: int
    site: str
    question: Question[Any]
    began: float
    due: float  # when it is sent (again)
    attempts: int = 0
    down: int = 0
    trouble: str = ""  # why it is asked again

    def answer(self, status: str, value: Any = None, up: int = 0, silent: bool = False) -> Answer[Any]:
        seconds = time.monotonic() - self.began
        return Answer(self.node, self.site, status, value, self.down, up, seconds, self.attempts, silent)


@dataclass
class Exchange:
    """Asks, and remembers which messages are still out.

    A reply that comes after its wait is used by nobody: it is named in the event log as ``reply-dropped``.

    Attributes:
        grid: Flower's grid.
        events: the server's event log.
        retries: how often a site that failed is asked again; one whose reply was rejected is not.
    """

    grid: Grid
    events: EventLog
    retries: int
    _overdue: dict[str, _Asked] = field(default_factory=dict)

    def ask(self, sites: Mapping[int, str], question: Question[T]) -> Iterator[Answer[T]]:
        """Send a question and yield one answer a site as they come, the missing ones at the deadline.

        Replies are matched by the id of the message they answer. A second reply, or one to another message, is not
        looked at; the last look is at the deadline.

        Args:
            sites: name by node id.
            question: what to ask.
        """
        start = time.monotonic()
        deadline, good, enough = start + question.timeout, 0, question.enough or len(sites)
        down, waited = payload_bytes(question.content), f"no reply within {question.timeout:g} s"
        unsent = [_Asked(node, site, question, start, start) for node, site in sites.items()]
        pending: dict[str, _Asked] = {}
        while unsent or pending:
            now = time.monotonic()
            for asked in [asked for asked in unsent if asked.due <= now]:
                unsent.remove(asked)
                if (message_id := self._send(asked, deadline - now, down)) is not None:
                    pending[message_id] = asked
                elif not self._again(asked, _UNSENT, unsent):
                    yield asked.answer(_UNSENT)
            looked_for = [*pending, *self._overdue]
            replies = list(self.grid.pull_messages(looked_for)) if looked_for else []
            for reply in replies:
                waiting = pending.pop(reply.metadata.reply_to_message_id, None)
                if waiting is None:
                    self._too_late(reply)
                    continue
                answer = _judge(reply, waiting)
                if not answer.status.startswith("failed") or not self._again(waiting, answer.status, unsent):
                    good += answer.value is not None
                    yield answer
            if good >= enough:
                grace = max(_GRACE[0], _GRACE[1] * (time.monotonic() - start))
                deadline, enough = min(deadline, time.monotonic() + grace), len(sites) + 1
                waited = "no reply when enough others had replied"
            if now >= deadline:
                break
            if not replies:
                time.sleep(min(_POLL[0] + 0.02 * (now - start), _POLL[1]))
        for asked in pending.values():
            yield asked.answer(f"failed: {waited}", silent=True)
        for asked in unsent:  # waiting to be asked again
            yield asked.answer(asked.trouble)
        self._keep(pending)

    def _keep(self, pending: Mapping[str, _Asked]) -> None:
        """Remember what is still out, for as long as an answer can be expected."""
        now = time.monotonic()
        out = {**self._overdue, **pending}
        self._overdue = {
            message_id: asked
            for message_id, asked in out.items()
            if now < asked.began + 2 * (asked.question.lifetime or asked.question.timeout)
        }

    def _send(self, asked: _Asked, time_left: float, down: int) -> str | None:
        asked.attempts += 1
        message = Message(
            asked.question.content,
            dst_node_id=asked.node,
            message_type=asked.question.message_type,
            ttl=float(asked.question.lifetime or max(time_left, _POLL[0])),
            group_id=str(asked.question.round_number),
        )
        # One at a time: a grid may leave out an id that it could not take, and then ids no longer match messages.
        ids = [message_id for message_id in self.grid.push_messages([message]) if message_id]
        asked.down += down if ids else 0
        return ids[0] if ids else None

    def _again(self, asked: _Asked, status: str, unsent: list[_Asked]) -> bool:
        """Put a site that failed back on the list, unless it was asked often enough."""
        if asked.attempts > self.retries:
            return False
        asked.trouble = status
        asked.due = time.monotonic() + _PAUSE * 4 ** (asked.attempts - 1)
        unsent.append(asked)
        question = asked.question
        self.events.write("site-asked-again", round=question.round_number, site=asked.site, status=status)
        return True

    def _too_late(self, reply: Message) -> None:
        asked = self._overdue.pop(reply.metadata.reply_to_message_id, None)
        if asked is None or not reply.has_content():  # Flower answers for a message that has expired with an error
            return
        answer, question = _judge(reply, asked), asked.question
        if question.late is not None and answer.value is not None:
            question.late(asked.node, answer.value)
            return
        self.events.write(
            "reply-dropped",
            round=question.round_number,
            site=asked.site,
            message=question.message_type,
            bytes_up=answer.bytes_up,
            seconds=round(answer.seconds, 3),
        )


def _judge(reply: Message, asked: _Asked) -> Answer[Any]:
    if not reply.has_content():
        return asked.answer(f"failed: {describe_error(reply.error)}")
    up = payload_bytes(reply.content)
    try:
        return asked.answer("ok", asked.question.read(reply.content), up)
    except ReplyError as error:
        return asked.answer(f"rejected: {error}", None, up)
