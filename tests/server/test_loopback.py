"""``lavq deploy up`` says for whom it waits, and what they said last when they do not come."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lavq_core.errors import RunError
from server.deployment.folders import Deployment
from server.deployment.loopback import wait_for


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    made = Deployment(tmp_path)
    made.logs.mkdir(parents=True)
    return made


@pytest.fixture
def supervisor() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


def test_who_is_missing_is_named_as_they_come(deployment: Deployment, supervisor: subprocess.Popen[bytes]) -> None:
    looks, said = iter([["st-mary", "city"], ["st-mary", "city"], ["city"], []]), list[str]()
    wait_for(lambda: next(looks), deployment, supervisor, said.append)
    assert said == ["waiting for st-mary, city", "waiting for city"]


def test_who_does_not_come_is_named_with_the_last_words_of_its_programs(
    deployment: Deployment, supervisor: subprocess.Popen[bytes]
) -> None:
    (deployment.logs / "sidecar-city.log").write_text("starting\nthe gateway's certificate has expired\n")
    with pytest.raises(RunError) as caught:
        wait_for(lambda: ["city"], deployment, supervisor, lambda _: None, patience=0.0)
    for words in ("city did not come up", "sidecar-city: the gateway's certificate has expired", str(deployment.logs)):
        assert words in str(caught.value)
    (deployment.logs / "superlink.log").write_text("the port is in use\n")
    with pytest.raises(RunError, match="superlink: the port is in use"):
        wait_for(lambda: ["superlink"], deployment, supervisor, lambda _: None, patience=0.0)


def test_nobody_waits_for_a_supervisor_that_has_ended(
    deployment: Deployment, supervisor: subprocess.Popen[bytes]
) -> None:
    (deployment.logs / "supervisor.log").write_text("no space left\n")
    supervisor.kill()
    supervisor.wait()
    with pytest.raises(RunError, match="supervisor: no space left"):
        wait_for(lambda: ["superlink"], deployment, supervisor, lambda _: None)
