"""A site's SuperExec: a process for every message, from one that is warm; and no other code of the server's."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import ExecutionSpec
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor

from client import flower_adapter, superexec
from client.flower_adapter import Task
from client.superexec import Starter, warm
from lavq_core.runs.events import read_events
from lavq_core.runs.layout import SiteFolder
from server.deployment.folders import SITE_DIR


def appeared(path: Path, seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return json.loads(path.read_text())


@pytest.fixture
def starter(tmp_path: Path) -> Starter:
    def run(task: Task) -> int:
        name = task["name"]
        about = {"pid": os.getpid(), "parent": os.getppid(), "task": task, "wave": "wave" in sys.modules}
        about["numbers"] = np.random.random(3).tolist()
        (tmp_path / "part").write_text(json.dumps(about))
        (tmp_path / "part").rename(tmp_path / name)
        if name == "failing":
            raise LookupError("of no interest to the next")
        return 0

    sys.modules.pop("wave", None)
    return warm(["wave"], run)


def test_every_command_has_a_process_of_its_own_that_was_warm(starter: Starter, tmp_path: Path) -> None:
    for name in ("failing", "second", "third"):
        starter.start({"name": name, "token": "x"})
        appeared(tmp_path / name)
    first, second, third = (appeared(tmp_path / name) for name in ("failing", "second", "third"))
    assert len({os.getpid(), first["pid"], second["pid"], third["pid"], first["parent"]}) == 5
    assert first["parent"] == second["parent"] == third["parent"]
    assert first["wave"]
    assert "wave" not in sys.modules
    assert second["task"] == {"name": "second", "token": "x"}
    assert second["numbers"] != third["numbers"]


def test_the_warm_process_ends_with_superexec_and_leaves_no_dead_ones(starter: Starter, tmp_path: Path) -> None:
    starter.start({"name": "one"})
    one = appeared(tmp_path / "one")
    deadline = time.monotonic() + 20.0
    while psutil.pid_exists(one["pid"]):  # until it is reaped
        assert time.monotonic() < deadline
        time.sleep(0.01)
    starter._requests.close()
    assert os.waitpid(one["parent"], 0)[1] == 0


def test_superexec_starts_client_apps_and_refuses_all_else_that_a_server_may_ask_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Task] = []
    results: dict[TaskType, str] = {}

    def flower_superexec() -> None:
        for number, kind in enumerate(TaskType, start=1):
            spec = ExecutionSpec(kind, "127.0.0.1:1", "token", True, None, False, 7, False, number)
            results[kind] = str(SubprocessExecutor().launch(spec).status)

    monkeypatch.setattr("flwr.supercore.cli.flower_superexec", flower_superexec)
    monkeypatch.setattr(SubprocessExecutor, "launch", SubprocessExecutor.launch)
    monkeypatch.setenv(SITE_DIR, str(tmp_path))
    flower_adapter.run_superexec(started.append, superexec.refuse)
    assert {kind for kind, result in results.items() if result == "accepted"} == {TaskType.CLIENT_APP}
    assert started == [{"runtime_api_address": "127.0.0.1:1", "token": "token", "parent_pid": 7}]
    refused = read_events(SiteFolder(tmp_path).events)
    assert len(refused) == len(TaskType) - 1
    assert any("asked for flwr-agentapp" in event["reason"] for event in refused)


def test_what_a_child_ends_with_is_its_own(tmp_path: Path) -> None:
    endings: list[tuple[Callable[[], Any], int]] = [(lambda: 3, 3), (lambda: None, 0), (lambda: sys.exit(4), 4)]
    endings += [(lambda: sys.exit("words"), 1), (lambda: 1 / 0, 1)]
    for run, code in endings:
        if (pid := os.fork()) == 0:
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 -- of the child alone
            superexec._ended_by(run)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code
