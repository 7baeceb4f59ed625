"""Keeps a whole deployment running on one machine, for trying out and for tests; systemd does the same on real ones.

A program that ended is started again: after a pause that doubles while it keeps ending, or at a fixed pace where its
list says so. One that runs but no longer answers its health check is killed first. A program is not started for the
first time before those ahead of it in the list that have a health check have answered. What the supervisor does is in
its log, and where every program stands in ``logs/supervisor.json``, from which ``lavq deploy status`` reads.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

import psutil

from lavq_core.errors import LavqError
from lavq_core.runs.events import EventLog
from lavq_core.runs.layout import write_atomic
from server.deployment.folders import Deployment
from server.deployment.processes import Program, server_programs, site_programs

MARK = "LAVQ_DEPLOYMENT"
"""Environment variable by which every process below a supervisor is known."""

_LOOK = 0.2  # s between two looks at the programs
_PROBE = 5.0  # s between two health checks
_FIRST_PROBE = 0.5  # s ... until the first one is answered
_START = 300.0  # s to answer the first one
_MISSED = 12  # health checks in a row, after which a program is killed: on a busy machine a slow one is not a dead one
_GOOD = 60.0  # s of running after which the pause is short again
_GRACE = 4.0  # s to end in order


@dataclass
class Watched:
    """A program and how it stands.

    Attributes:
        program: what is run.
        process: None while it waits for its next start.
        due: monotonic time of that start.
        began: monotonic time of the last start.
        pause: s before the next start.
        starts: how often it was started.
        answered: its health check, at least once since its last start.
        missed: health checks in a row that it has not answered after that.
        probed: monotonic time of the last one.
    """

    program: Program
    process: subprocess.Popen[bytes] | None = None
    due: float = 0.0
    began: float = 0.0
    pause: float = 0.0
    starts: int = 0
    answered: bool = False
    missed: int = 0
    probed: float = 0.0
    last_code: int | None = None


@dataclass(frozen=True)
class State:
    """What ``supervisor.json`` says.

    Attributes:
        pid: of the supervisor.
        mark: of all its processes.
        programs: by name: ``pid`` (0 while it waits), ``starts`` and the last exit ``code``.
    """

    pid: int
    mark: str
    programs: dict[str, dict[str, int | None]] = field(default_factory=dict)

    def processes(self) -> list[psutil.Process]:
        """Find the supervisor and all that was started below it, even if it is gone."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get(MARK) == self.mark:
                    found.append(process)
        return found


def load_state(deployment: Deployment) -> State | None:
    """Read what the last supervisor said; None if there was none."""
    with suppress(OSError, ValueError, TypeError):
        return State(**json.loads(deployment.supervisor.read_text(encoding="utf-8")))
    return None


class Supervisor:
    """Starts programs, and starts them again, until it is told to end."""

    def __init__(self, deployment: Deployment, programs: Sequence[Program], mark: str) -> None:
        self._deployment, self._mark = deployment, mark
        self._watched = [Watched(program, pause=program.pause) for program in programs]
        self._events = EventLog(deployment.logs / "supervisor.jsonl")
        self._ending = False

    def run(self) -> None:
        """Watch until SIGTERM or SIGINT, then end everything in the reverse order."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        try:
            while not self._ending:
                self._look()
                time.sleep(_LOOK)
        finally:
            self._stop_all()

    def _look(self) -> None:
        for watched in self._watched:
            self._look_at(watched, time.monotonic())
            if watched.program.health is not None and watched.starts == 1 and not watched.answered:
                return  # what comes after needs it

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._ending = True

    def _look_at(self, watched: Watched, now: float) -> None:
        if watched.process is None:
            if now >= watched.due:
                self._start(watched, now)
            return
        code = watched.process.poll()
        if code is None:
            self._probe(watched, now)
            return
        program = watched.program
        if now - watched.began > _GOOD:
            watched.pause = program.pause
        watched.process, watched.due, watched.last_code = None, now + watched.pause, code
        self._events.write("ended", program=program.name, code=code, again_in=watched.pause)
        watched.pause = min(2 * watched.pause, program.longest_pause)
        self._write_state()

    def _start(self, watched: Watched, now: float) -> None:
        program = watched.program
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("FLWR_")}
        with (self._deployment.logs / f"{program.name}.log").open("ab") as log:
            watched.process = subprocess.Popen(
                program.command,
                cwd=program.folder,
                env={**inherited, **program.environment, MARK: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                umask=0o077,
            )
        watched.began, watched.probed, watched.missed, watched.answered = now, now, 0, False
        watched.starts += 1
        self._events.write("started", program=program.name, pid=watched.process.pid, time_number=watched.starts)
        self._write_state()

    def _probe(self, watched: Watched, now: float) -> None:
        pause = _PROBE if watched.answered else _FIRST_PROBE
        if watched.program.health is None or watched.process is None or now - watched.probed < pause:
            return
        watched.probed = now
        if answers(*watched.program.health):
            watched.answered, watched.missed = True, 0
        else:
            watched.missed += watched.answered  # one that is still coming up is given its time
        if watched.missed >= _MISSED or (not watched.answered and now - watched.began > _START):
            self._events.write("killed", program=watched.program.name, reason="it does not answer")
            watched.process.kill()

    def _write_state(self) -> None:
        programs = {
            w.program.name: {"pid": w.process.pid if w.process else 0, "starts": w.starts, "code": w.last_code}
            for w in self._watched
        }
        state = State(os.getpid(), self._mark, programs)
        write_atomic(self._deployment.supervisor, json.dumps(asdict(state), indent=1) + "\n")

    def _stop_all(self) -> None:
        for watched in reversed(self._watched):
            if watched.process is not None:
                watched.process.terminate()
        end_all(State(os.getpid(), self._mark))
        self._deployment.supervisor.unlink(missing_ok=True)


def end_all(state: State) -> None:
    """End what a supervisor had started, by process id: in order first, then at once."""
    for kill in (False, True):
        processes = state.processes()
        for process in processes:
            with suppress(psutil.Error):
                if kill:
                    process.kill()
                else:
                    process.terminate()
        psutil.wait_procs(processes, timeout=_GRACE)


def answers(url: str, trust: Path) -> bool:
    """Tell whether a health check is answered within five seconds."""
    handlers = [urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=_context(trust))]
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=5.0) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _context(trust: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(trust))


def main() -> int:
    """Run ``python -m server.deployment.supervisor DIR MARK``."""
    try:
        deployment = Deployment.open(sys.argv[1])
        programs = server_programs(deployment.server)
        for node in deployment.sites():
            programs += site_programs(node)
        Supervisor(deployment, programs, sys.argv[2]).run()
    except LavqError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
