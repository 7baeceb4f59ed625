"""One server a run folder: a lock that a killed process lets go of."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from lavq_core.errors import RunError
from lavq_core.runs.layout import RunFolder

_PATIENCE = 2.0  # s; whoever asks ``is_held`` has the lock for a moment


@contextmanager
def held(run: RunFolder) -> Iterator[None]:
    """Work in a run folder, made if it is not there, as the only server.

    Raises:
        RunError: another server works in it.
    """
    run.root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run.lock, timeout=_PATIENCE)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(f"a run is going on in {run.root}: wait until it has ended, or end it first") from None
    try:
        yield
    finally:
        lock.release()


def is_held(run: RunFolder) -> bool:
    """Tell whether a server works in a run folder now; reads only."""
    if not run.lock.is_file():
        return False
    with run.lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
