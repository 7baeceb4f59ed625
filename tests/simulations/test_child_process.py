"""Experiments leave no process behind when they are killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

from simulations.experiments.pool import each_seed


def write_and_wait(folder: Path, name: str) -> None:
    (folder / name).write_text(str(os.getpid()))
    time.sleep(120)


def experiment(folder: Path) -> None:
    each_seed(write_and_wait, [(folder, "first"), (folder, "second")], 1, "jobs done")


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_killed_experiment_takes_its_workers_with_it(tmp_path: Path) -> None:
    killed = multiprocessing.get_context("spawn").Process(target=experiment, args=(tmp_path,))
    killed.start()
    deadline = time.monotonic() + 60
    while not ((tmp_path / "first").is_file() and (tmp_path / "first").read_text()):
        assert time.monotonic() < deadline, "the experiment did not start its first job"
        time.sleep(0.05)
    worker = int((tmp_path / "first").read_text())
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    while alive(worker):
        assert time.monotonic() < deadline, "the worker went on"
        time.sleep(0.05)
    assert not (tmp_path / "second").exists()
