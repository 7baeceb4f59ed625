"""Look into the packed parts of a message, and change tensors of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flwr.app import RecordDict

from server.packing import PARTS, Parts, pack, unpack


def states(content: RecordDict) -> Parts:
    """All parts of a message."""
    return unpack(content.array_records[PARTS])


def held(content: RecordDict) -> set[str]:
    """Names of a message's parts, and of its other records."""
    parts = set(states(content)) if PARTS in content else set()
    return parts | {str(name) for name in content} - {PARTS}


@contextmanager
def opened(content: RecordDict) -> Iterator[Parts]:
    """The parts of a message; what is changed, added or removed in the ``with`` is packed again at its end."""
    parts = states(content)
    yield parts
    content[PARTS] = pack(parts)
