"""A federation inside one process: the same ServerApp and ClientApp without Ray or a SuperLink.

For tests and sweeps: nothing to start, nothing to wait for, one order of events. Sites run one after another, each with
its own Flower ``Context``; whatever crosses is serialised and parsed again, as on a network.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Collection, Iterable, Sequence

from flwr.app import Context, Error, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from server.flower_adapter import (
    acting_as_server,
    copy_over_the_wire,
    empty_run,
    with_message_id,
)

RUN_ID = 1
_APP_RAISED = 2  # Flower's code for an exception inside a ClientApp


class InProcessGrid(Grid):
    """A grid whose sites are calls of one ClientApp.

    A message is worked on when its reply is asked for, one a call, in the order of sending. So the server sees replies
    one by one, and a deadline that has passed keeps the rest from running.

    Args:
        client_app: the sites' app.
        clients: number of sites; site i has ``node_config`` ``{"partition-id": i, "num-partitions": clients}``.
        run_config: every site's run config.
        absent: partitions whose site takes no part; the others keep their numbers and their data.
    """

    def __init__(
        self, client_app: ClientApp, clients: int, run_config: UserConfig, absent: Collection[int] = ()
    ) -> None:
        self._client_app = client_app
        self._run = empty_run(RUN_ID)
        self._contexts = {
            node: Context(
                run_id=RUN_ID,
                node_id=node,
                node_config={"partition-id": partition, "num-partitions": clients},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for partition, node in enumerate(range(2, clients + 2))  # node 1 is the server
            if partition not in absent
        }
        self._waiting: dict[str, Message] = {}
        self._sent = 0

    def set_run(self, run: object) -> None:
        """Do nothing: there is one run."""

    @property
    def run(self) -> object:  # type: ignore[override]
        """Flower's description of the run, empty but for its id."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message, as ``flwr.app.Message`` does."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the sites' node ids, in the order of partitions."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages and return their ids."""
        ids = []
        for message in messages:
            self._sent += 1
            message_id = f"message-{self._sent}"
            self._waiting[message_id] = with_message_id(message, message_id)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Let a site work on the first of these messages that waits, and return its reply; nothing if none waits.

        As in Flower, a message whose time to live has passed reaches no site.
        """
        for message_id in message_ids:
            message = self._waiting.pop(message_id, None)
            if message is not None and time.time() < message.metadata.created_at + message.metadata.ttl:
                return [self._answer(message)]
        return []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and return all replies; ``timeout`` is not needed, since every site answers."""
        ids = list(self.push_messages(messages))
        return [reply for _ in ids for reply in self.pull_messages(ids)]

    def _answer(self, message: Message) -> Message:
        context = self._contexts[message.metadata.dst_node_id]
        message.content = copy_over_the_wire(message.content)
        try:
            reply = self._client_app(message, context)
        except Exception as error:
            # Flower's runtimes put the exception's text into the reply; here nothing but its class leaves the site.
            return Message(Error(_APP_RAISED, type(error).__name__), reply_to=message)
        if reply.has_content():
            reply.content = copy_over_the_wire(reply.content)
        return reply


def run_in_process(
    overrides: Sequence[str],
    clients: int,
    server_app: ServerApp | None = None,
    client_app: ClientApp | None = None,
    absent: Collection[int] = (),
) -> None:
    """Run a federation in this process.

    Args:
        overrides: Hydra overrides; ``run.dir`` must be among them, and ``federation.sites`` should be ``clients``.
        clients: number of sites.
        server_app: default ``server.app``.
        client_app: default ``client.app``.
        absent: partitions whose site takes no part; ``federation.sites`` does not count them.

    Raises:
        LavqError: whatever ended the run.
    """
    # Imported here: whoever brings their own apps (tests do) does not load the models and the data readers.
    if server_app is None:
        from server.app import app as lavq_server

        server_app = lavq_server
    if client_app is None:
        from client.app import app as lavq_client

        client_app = lavq_client
    run_config: UserConfig = {"overrides": shlex.join(overrides)}
    grid = InProcessGrid(client_app, clients, run_config, absent)
    context = Context(run_id=RUN_ID, node_id=1, node_config={}, state=RecordDict(), run_config=run_config)
    with acting_as_server(RUN_ID):
        server_app(grid, context)
