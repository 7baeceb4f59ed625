"""Progress bars on standard error, for anything that may take over two seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

T = TypeVar("T")


def track(items: Sequence[T], what: str) -> Iterator[T]:
    """Go through ``items`` with a bar that disappears at the end."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(items, description=what)
