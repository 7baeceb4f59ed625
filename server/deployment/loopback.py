"""``lavq deploy up``, ``status`` and ``down``: a whole deployment on one machine."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import psutil

from lavq_core.errors import RunError
from lavq_core.runs.events import read_events
from server.deployment.folders import Deployment
from server.deployment.processes import server_programs
from server.deployment.submission import register_nodes
from server.deployment.supervisor import MARK, answers, end_all, load_state
from server.flower_environment import last_words

_START_TIMEOUT = 300.0  # s until the SuperLink must answer, and again until all sites must be connected
_LOOK = 0.3  # s between two looks at what is there
_ACTIVATE = "/v1/fleet/activate-node"


@dataclass(frozen=True)
class ProgramStatus:
    """One program of a running deployment."""

    name: str
    state: str  # running, or waiting for its next start
    pid: int
    starts: int


def start(deployment: Deployment, say: Callable[[str], None]) -> None:
    """Start everything, make the sites' keys known, and wait until every site is connected.

    Raises:
        RunError: it runs already, or something did not come up.
    """
    state = load_state(deployment)
    if state is not None and psutil.pid_exists(state.pid):
        raise RunError(f"{deployment.root} is running already: lavq deploy status {deployment.root}")
    if state is not None:
        end_all(state)  # of a supervisor that was killed
    deployment.logs.mkdir(exist_ok=True)
    mark, began = secrets.token_hex(8), datetime.now(UTC)
    with (deployment.logs / "supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "server.deployment.supervisor", str(deployment.root), mark],
            cwd=deployment.server.work,
            env={**os.environ, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        health = server_programs(deployment.server)[0].health
        if health is None:
            raise RunError("the SuperLink has no health check")
        sites = [node.settings().name for node in deployment.sites()]
        wait_for(lambda: [] if answers(*health) else ["superlink"], deployment, process, say)
        register_nodes(deployment.server)
        wait_for(lambda: [s for s in sites if s not in _arrived(deployment, began)], deployment, process, say)
    except BaseException:  # an interrupt as well: nothing stays behind
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30.0)
        stop(deployment)
        raise


def status(deployment: Deployment) -> list[ProgramStatus]:
    """Return how every program stands; empty if nothing runs."""
    state = load_state(deployment)
    if state is None or not psutil.pid_exists(state.pid):
        return []
    rows = []
    for name, facts in state.programs.items():
        pid = facts["pid"] or 0
        running = pid > 0 and psutil.pid_exists(pid)
        code = facts["code"]
        waiting = "waiting for its next start" + ("" if code is None else f" (it ended with {code})")
        rows.append(ProgramStatus(name, "running" if running else waiting, pid, facts["starts"] or 0))
    return rows


def stop(deployment: Deployment) -> bool:
    """End everything; False if nothing ran."""
    state = load_state(deployment)
    if state is None:
        return False
    if psutil.pid_exists(state.pid):
        supervisor = psutil.Process(state.pid)
        if supervisor.environ().get(MARK) == state.mark:
            supervisor.terminate()
            psutil.wait_procs([supervisor], timeout=30.0)
    end_all(state)  # what a killed supervisor left behind
    deployment.supervisor.unlink(missing_ok=True)
    return True


def _arrived(deployment: Deployment, since: datetime) -> set[str]:
    """Read from the gateway's audit log which sites' nodes the SuperLink has let in."""
    logs = sorted(deployment.server.audit.glob("*.jsonl"))[-2:]  # it may be midnight
    return {
        str(line["site"])
        for log in logs
        for line in read_events(log)
        if line["path"] == _ACTIVATE and line["status"] == 200 and datetime.fromisoformat(line["time"]) >= since
    }


def wait_for(
    missing: Callable[[], list[str]],
    deployment: Deployment,
    supervisor: subprocess.Popen[bytes],
    say: Callable[[str], None],
    patience: float = _START_TIMEOUT,
) -> None:
    """Wait until nothing is missing, and say what is.

    Args:
        missing: names the SuperLink or the sites that are not there yet.
        deployment: whose logs tell why.
        supervisor: of its programs.
        say: told whenever other ones are missing.
        patience: s to wait.

    Raises:
        RunError: it took too long, or the supervisor ended; with what is missing and its last words.
    """
    deadline, said = time.monotonic() + patience, list[str]()
    while names := missing():
        if names != said:
            say(f"waiting for {', '.join(names)}")
            said = names
        if supervisor.poll() is not None or time.monotonic() >= deadline:
            programs = ["superlink"] if names == ["superlink"] else [f"sidecar-{names[0]}", f"supernode-{names[0]}"]
            programs = programs if supervisor.poll() is None else ["supervisor"]
            words = "; ".join(f"{name}: {last_words(deployment.logs / f'{name}.log')}" for name in programs)
            raise RunError(f"{', '.join(names)} did not come up ({words}); all logs are in {deployment.logs}")
        time.sleep(_LOOK)
