"""A program that ends is started again, and one that hangs is ended first."""

from __future__ import annotations

import http.server
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from lavq_core.runs.events import read_events
from server.deployment import supervisor as module
from server.deployment.folders import Deployment
from server.deployment.processes import Program
from server.deployment.supervisor import Supervisor, answers, end_all, load_state

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    (tmp_path / "logs").mkdir()
    return Deployment(tmp_path)


@pytest.fixture
def supervise(deployment: Deployment) -> Iterator[Callable[..., Supervisor]]:
    made = []

    def make(*programs: Program) -> Supervisor:
        made.append(Supervisor(deployment, programs, f"test-{os.getpid()}"))
        return made[-1]

    yield make
    for one in made:
        one._stop_all()


def until(what: Callable[[], bool], look: Callable[[], None], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        look()
        time.sleep(0.02)


def events(deployment: Deployment, kind: str) -> list[dict[str, object]]:
    return [event for event in read_events(deployment.logs / "supervisor.jsonl") if event["event"] == kind]


def test_a_program_that_keeps_ending_is_started_at_ever_longer_intervals(
    deployment: Deployment, supervise: Callable[..., Supervisor]
) -> None:
    program = Program(
        "brief", (sys.executable, "-c", "raise SystemExit(3)"), folder=deployment.root, pause=0.05, longest_pause=0.2
    )
    watching = supervise(program)
    until(lambda: len(events(deployment, "ended")) >= 4, watching._look)
    assert [event["again_in"] for event in events(deployment, "ended")][:4] == [0.05, 0.1, 0.2, 0.2]
    assert {event["code"] for event in events(deployment, "ended")} == {3}


def test_a_killed_program_is_there_again_and_the_state_says_so(
    deployment: Deployment, supervise: Callable[..., Supervisor]
) -> None:
    watching = supervise(Program("worker", SLEEP, folder=deployment.root, pause=0.05))
    watching._look()
    first = load_state(deployment)
    assert first is not None
    os.kill(first.programs["worker"]["pid"] or 0, signal.SIGKILL)
    until(lambda: len(events(deployment, "started")) == 2, watching._look)
    second = load_state(deployment)
    assert second is not None
    assert second.programs["worker"]["starts"] == 2
    assert second.programs["worker"]["code"] == -signal.SIGKILL
    assert second.programs["worker"]["pid"] != first.programs["worker"]["pid"]


def test_programs_wait_for_what_they_need_and_a_hung_one_is_killed(
    deployment: Deployment, supervise: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    well = {"is": False}
    monkeypatch.setattr(module, "answers", lambda *_: well["is"])
    for name, value in (("_PROBE", 0.02), ("_FIRST_PROBE", 0.02), ("_MISSED", 3)):
        monkeypatch.setattr(module, name, value)
    server = Program("server", SLEEP, folder=deployment.root, pause=0.05, health=("https://nowhere", Path("none")))
    watching = supervise(server, Program("needs it", SLEEP, folder=deployment.root))
    for _ in range(10):
        watching._look()
        time.sleep(0.02)
    assert [event["program"] for event in events(deployment, "started")] == ["server"]
    well["is"] = True
    until(lambda: len(events(deployment, "started")) == 2, watching._look)
    well["is"] = False
    until(lambda: len(events(deployment, "started")) == 3, watching._look)
    assert [event["program"] for event in events(deployment, "killed")] == ["server"]
    assert events(deployment, "started")[-1]["program"] == "server"


def test_what_a_killed_supervisor_left_is_found_and_ended(
    deployment: Deployment, supervise: Callable[..., Supervisor]
) -> None:
    supervise(Program("orphan", SLEEP, folder=deployment.root))._look()
    state = load_state(deployment)
    assert state is not None
    pid = state.programs["orphan"]["pid"] or 0
    assert [process.pid for process in state.processes()] == [pid]
    end_all(state)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_server_without_tls_or_without_an_answer_is_not_well(tmp_path: Path) -> None:
    from server.deployment.certificates import write_loopback

    write_loopback((tmp_path / "l.crt", tmp_path / "l.key"))
    plain = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=plain.serve_forever, daemon=True)
    thread.start()
    try:
        assert not answers(f"https://127.0.0.1:{plain.server_port}/", tmp_path / "l.crt")
    finally:
        plain.shutdown()
        plain.server_close()
    assert not answers(f"https://127.0.0.1:{plain.server_port}/", tmp_path / "l.crt")
