"""Seeds of an experiment side by side, one core each, with a line as each ends."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

from rich.console import Console

from simulations.child_process import end_with_parent

T = TypeVar("T")


def each_seed(work: Callable[..., T], jobs: Sequence[tuple[Any, ...]], workers: int, done: str) -> list[T]:
    """Call ``work(*job)`` for every job in processes of their own; the results in the order of the jobs."""
    console, results = Console(stderr=True), {}
    os.environ["OMP_NUM_THREADS"] = "1"  # inherited; a process that counts the cores itself would take them all
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads half-way
    with ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as pool:
        pending = {pool.submit(work, *job): number for number, job in enumerate(jobs)}
        for ended in as_completed(pending):
            results[pending[ended]] = ended.result()
            console.print(f"{len(results)} of {len(jobs)} {done}", highlight=False)
    return [results[number] for number in range(len(jobs))]
