"""Small trainings side by side: one single-threaded process a core, as small networks gain little from threads."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from lavq_core.errors import RunError
from simulations.child_process import end_with_parent

# Processes are forked from one that has imported what trainings need, which takes seconds, and nothing else: it has no
# threads, where the fork of a process with threads may lock up. It is started once and ends with this process.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    ["simulations.audit.shadows.central", "simulations.audit.shadows.federated", "client.app", "server.app"]
)

Shared = TypeVar("Shared")
Result = TypeVar("Result")


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def train_in_parallel(
    train: Callable[[Shared, int], Result], shared: Shared, numbers: Sequence[int], workers: int
) -> Iterator[tuple[int, Result]]:
    """Call ``train(shared, number)`` for every number and yield ``(number, result)`` as each is done.

    Args:
        train: a function of a module (it is found by name in the other processes).
        shared: sent to each process once.
        numbers: what to call it with.
        workers: processes; 1 works in this process, in order.

    Raises:
        RunError: a process was ended from outside.
    """
    workers = min(workers, len(numbers))
    if workers <= 1:
        for number in numbers:
            with _one_thread():
                result = train(shared, number)
            yield number, result
        return
    executor = ProcessPoolExecutor(
        workers,
        mp_context=_PROCESSES,
        initializer=_start_worker,
        initargs=(train, shared),
    )
    try:
        futures = {executor.submit(_work, number): number for number in numbers}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool:
        raise RunError(
            "a process of the audit was ended from outside, often for want of memory: run it again, what was finished "
            "is kept"
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread, so that sums are the same here as in a process of the pool."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


_job: tuple[Callable[[Any, int], Any], Any] | None = None  # of a worker process, for as long as it lives


def _start_worker(train: Callable[[Any, int], Any], shared: Any) -> None:
    global _job
    _job = train, shared
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker at once, without a traceback of its own
    end_with_parent()


def _work(number: int) -> Any:
    assert _job is not None
    train, shared = _job
    return train(shared, number)
