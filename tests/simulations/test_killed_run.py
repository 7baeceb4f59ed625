"""The real apps, killed with SIGKILL at random moments and taken up again: the same bits, at the sites too."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pandas as pd
import pytest

from lavq_core.runs.events import read_events, standing_events
from lavq_core.runs.layout import RunFolder, rounds_in
from simulations.inprocess import run_in_process

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
MOMENTS = 2  # random ones in this test; a run that was killed ten times went the same way
# Each run is a process of its own, a copy of one that has imported the apps and done nothing else.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["server.app", "client.app", "simulations.inprocess"])


def settings(folder: Path, cache: Path) -> list[str]:
    """No network is shared: what a site has learned about separating it has from its own disk alone."""
    small = ["detector.width=8", "detector.blocks=1", "detector_training.epochs=1", "detector_training.crop=1.0"]
    small += ["separator.width=16", "separator.blocks=1", "separator.heads=2", "separator_training.after=0"]
    small += ["separator_training.steps=2", "separator_training.batch=2", "codebook.size=6", "codebook.dim=8"]
    small += ["text.width=12", "twins.after=0", "twins.gallery=2", "partition.scheme=iid", "run.device=cpu"]
    small += ["federation.sites=3", "federation.rounds=4", "federation.share=[]", "data.train_folds=[1,2]"]
    where = [f"run.dir='{folder}'", f"data.dir='{ROOT}/simulations/sample'", f"data.cache_dir='{cache}'"]
    return [*where, *small]


def start(overrides: list[str]) -> BaseProcess:
    process = PROCESSES.Process(target=run_in_process, args=(overrides, 3))
    process.start()
    return process


def ended(process: BaseProcess) -> int | None:
    process.join()
    return process.exitcode


def wait_for_training(folder: RunFolder, events: int, process: BaseProcess) -> None:
    while process.is_alive() and len(read_events(folder.events)) <= events:
        time.sleep(0.05)


def weights(folder: RunFolder) -> dict[str, bytes]:
    files = {str(file.relative_to(folder.root)): file for file in folder.model.glob("*.safetensors")}
    for site in folder.sites():
        kept = rounds_in(site.private_model)
        files |= {f"{site.root.name}/{number}": path / "networks.safetensors" for number, path in kept.items()}
    return {name: file.read_bytes() for name, file in files.items()}


def test_a_killed_run_ends_as_an_unbroken_one(tmp_path: Path, packs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    unbroken, broken = RunFolder(tmp_path / "unbroken"), RunFolder(tmp_path / "broken")
    first = start(settings(unbroken.root, packs))
    wait_for_training(unbroken, 4, first)
    trained_from = time.monotonic()
    assert ended(first) == 0
    length = time.monotonic() - trained_from

    overrides, generator, kills = settings(broken.root, packs), random.Random(7), 0
    while True:
        before = read_events(broken.events)
        resume = ["run.resume=true"] if broken.config.is_file() else []
        process = start([*overrides, *resume])
        if kills == MOMENTS:
            assert ended(process) == 0
            break
        wait_for_training(broken, len(before) + 5, process)  # a site has replied
        time.sleep(generator.uniform(0.0, length / MOMENTS))
        process.kill()
        kills += ended(process) == -signal.SIGKILL
        if read_events(broken.events)[-1]["event"] == "run-finished":
            break
    assert kills > 0
    assert weights(broken) == weights(unbroken)
    for one, two in zip(broken.sites(), unbroken.sites(), strict=True):
        for file in (one.predictions, two.predictions):
            assert len(pd.read_csv(file)) > 0
        assert one.predictions.read_bytes() == two.predictions.read_bytes()
        logs = [standing_events(read_events(site.events)) for site in (one, two)]
        for log in logs:
            assert [event["round"] for event in log if event["event"] == "round-trained"] == [1, 2, 3, 4]
        timeless = [[{k: v for k, v in e.items() if k not in ("time", "seconds")} for e in log] for log in logs]
        assert sorted(map(str, timeless[0])) == sorted(map(str, timeless[1]))
