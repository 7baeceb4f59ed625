"""The one module that touches Flower's private or fast-moving API (written against flwr 1.41.0).

Everything else uses ``flwr.app``, ``flwr.serverapp`` and ``flwr.clientapp``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from flwr.app import Message, Metadata, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.serverapp.strategy import FedAdam, Strategy
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from torch import Tensor

SERVER_NODE_ID = 1  # flwr.common.constant.SUPERLINK_NODE_ID


def payload_bytes(content: RecordDict) -> int:
    """Count the bytes of a message's content: the length of its serialised protobuf ``RecordDict``.

    The packed tensors with their header, names, numbers and strings are all in it. What a transport adds (metadata of
    the message, HTTP and TLS framing) is not, so the count is the same in every runtime.
    """
    return recorddict_to_proto(content).ByteSize()


def copy_over_the_wire(content: RecordDict) -> RecordDict:
    """Serialise and parse ``content``: what the other end would hold, sharing no memory with this end."""
    return recorddict_from_proto(recorddict_to_proto(content))


def with_message_id(message: Message, message_id: str) -> Message:
    """Return the message under an id, as a grid does when it takes the message over."""
    old = message.metadata
    metadata = Metadata(
        run_id=old.run_id,
        message_id=message_id,
        src_node_id=old.src_node_id,
        dst_node_id=old.dst_node_id,
        reply_to_message_id=old.reply_to_message_id,
        group_id=old.group_id,
        created_at=old.created_at,
        ttl=old.ttl,
        message_type=old.message_type,
        src_task_id=old.src_task_id,
        dst_task_id=old.dst_task_id,
    )
    if message.has_error():
        return Message(metadata=metadata, error=message.error)  # type: ignore[call-overload]
    return Message(metadata=metadata, content=message.content)  # type: ignore[call-overload]


def aggregate_with(strategy: Strategy, round_number: int, contents: Sequence[RecordDict]) -> RecordDict:
    """Let a Flower strategy aggregate training replies.

    Args:
        strategy: for example ``flwr.serverapp.strategy.FedAvg()``.
        round_number: counts from 1.
        contents: one per site, each with exactly one ``ArrayRecord`` and one ``MetricRecord`` holding ``num-examples``.

    Returns:
        ``{"arrays": ArrayRecord}``.

    Raises:
        RuntimeError: the strategy returned nothing (it found too few or inconsistent replies).
    """
    replies = []
    for content in contents:
        metadata = Metadata(0, "", 0, SERVER_NODE_ID, "", str(round_number), 0.0, 1.0, "train")
        replies.append(Message(metadata=metadata, content=content))  # type: ignore[call-overload]
    arrays, _ = strategy.aggregate_train(round_number, replies)
    if arrays is None:
        raise RuntimeError(f"{type(strategy).__name__} returned no weights in round {round_number}")
    return RecordDict({"arrays": arrays})


def fed_adam(server_lr: float, current: Mapping[str, Tensor], memory: Mapping[str, Tensor]) -> FedAdam:
    """Make a ``FedAdam`` that goes on: Flower's own learns the current weights from ``configure_train``, which we skip.

    Args:
        server_lr: the server's learning rate.
        current: the weights that the sites started from.
        memory: from ``adam_memory``; empty at first.
    """
    strategy = FedAdam(eta=server_lr)
    strategy.current_arrays = {name: value.numpy() for name, value in current.items()}
    if memory:
        strategy.m_t = {name: memory[f"first.{name}"].numpy() for name in current}
        strategy.v_t = {name: memory[f"second.{name}"].numpy() for name in current}
    return strategy


def adam_memory(strategy: FedAdam) -> dict[str, Tensor]:
    """Return the moments after an aggregation: ``first.NAME`` and ``second.NAME``."""
    moments = [("first", strategy.m_t or {}), ("second", strategy.v_t or {})]
    # A weight without dimensions comes back as a NumPy scalar.
    return {f"{kind}.{name}": torch.from_numpy(np.asarray(v)) for kind, state in moments for name, v in state.items()}


def app_digest(folder: Path) -> str:
    """Return the sha256 of the bundle that ``flwr run`` makes of an app's folder; the same files give the same one."""
    return hashlib.sha256(build_fab_from_disk(folder)).hexdigest()


def empty_run(run_id: int) -> Run:
    """Make the ``Run`` that ``Grid.run`` has to return."""
    return Run.create_empty(run_id)


@contextmanager
def acting_as_server(run_id: int) -> Iterator[None]:
    """Let ``Message(...)`` be called in this process as a ServerApp of ``run_id``; restored on leaving."""
    before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = run_id, run_id, SERVER_NODE_ID
    try:
        yield
    finally:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before
