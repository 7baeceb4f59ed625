"""Flower's SuperLink for simulations of one checkout: started with its own settings, ended with all it started.

What is dealt with here was measured on flwr 1.41.0:

- Ray's workers import the top-level packages ``client`` and ``server`` from the working directory of the SuperLink if
  they are there, and not from the app that runs. So the SuperLink starts in an empty directory.
- The SuperLink that ``flwr run`` starts by itself listens on one port for all checkouts and outlives them. So each
  start gets a free port and a Flower home (``FLWR_HOME``: connection, bundles) of its own.
- It starts ``flower-superexec``, which starts ``flwr-simulation``, which starts Ray. All carry a mark in their
  environment by which they are found, by process id, when the SuperLink ends.

By hand: ``python -m simulations.superlink start`` and ``stop``, see the README.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from lavq_core.errors import LavqError, RunError
from lavq_core.runs.layout import write_atomic
from server.flower_environment import OFFLINE, flower_environment, free_port, last_words, program

CHECKOUT = Path(__file__).resolve().parents[1]
CONNECTION = "local"
_MARK = "LAVQ_SUPERLINK"
_START_TIMEOUT = 60.0  # s until the SuperLink must answer
_STOP_TIMEOUT = 8.0  # s that a simulation gets to end Ray in order
_RECORD = "superlink.json"


@dataclass(frozen=True)
class SuperLink:
    """A running SuperLink.

    Attributes:
        home: its ``FLWR_HOME``.
        scratch: folder of Ray's files; short, because Ray's socket paths must stay below 108 bytes.
        pid: process id.
        owner: process id of who started it and ends it, 0 if started by hand.
        port: of its HTTP API, on 127.0.0.1.
        mark: value of ``LAVQ_SUPERLINK`` in the environment of every process below it.
    """

    home: str
    scratch: str
    pid: int
    owner: int
    port: int
    mark: str

    def environment(self) -> dict[str, str]:
        """Return the whole environment of a ``flwr`` command that uses this SuperLink."""
        return flower_environment(Path(self.home), self.scratch, {_MARK: self.mark})

    def log(self) -> Path:
        """Return the file of the SuperLink's own output."""
        return Path(self.home) / "superlink.log"

    def processes(self) -> list[psutil.Process]:
        """Find every living process that belongs to this SuperLink: it and all below it carry its mark."""
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(_MARK) == self.mark:
                    found[process.pid] = process
                    # Ray overwrites its workers' environment with their titles: find these through their parents.
                    found.update({child.pid: child for child in process.children(recursive=True)})
        found.pop(os.getpid(), None)
        return list(found.values())

    def stop(self) -> None:
        """End the SuperLink and all that it started, and remove its home and scratch folders."""
        processes = self.processes()
        for process in processes:
            if process.pid == self.pid:
                _signal(process, kill=False)
        psutil.wait_procs(processes, timeout=_STOP_TIMEOUT)
        for kill in (False, True):
            left = [process for process in {*processes, *self.processes()} if process.is_running()]
            for process in left:
                _signal(process, kill)
            psutil.wait_procs(left, timeout=5.0)
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.rmtree(self.scratch, ignore_errors=True)


def start_superlink(home: Path, owner: int) -> SuperLink:
    """Start a SuperLink for simulations and wait until it answers.

    Args:
        home: its ``FLWR_HOME``; made here, removed by ``stop``.
        owner: the process that will end it, 0 for none.

    Raises:
        RunError: it did not start.
    """
    scratch = tempfile.mkdtemp(prefix="lavq-", dir="/tmp" if Path("/tmp").is_dir() else None)
    mark, port = secrets.token_hex(8), free_port()
    empty = home / "empty"
    empty.mkdir(parents=True, exist_ok=True)
    connection = f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
    write_atomic(home / "config.toml", f'{connection}address = "127.0.0.1:{port}"\ninsecure = true\n')
    command = [program("flower-superlink"), "--insecure", "--simulation", "--isolation", "subprocess"]
    command += ["--disable-runtime-dependency-installation", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "superlink.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=empty,
            env=flower_environment(home, scratch, {_MARK: mark}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    superlink = SuperLink(str(home), scratch, process.pid, owner, port, mark)
    write_atomic(home / _RECORD, json.dumps(asdict(superlink)))
    try:
        _wait_until_ready(process, port)
    except BaseException as error:
        last = last_words(superlink.log())
        superlink.stop()
        if isinstance(error, RunError):
            raise RunError(f"Flower's SuperLink did not start: {error}: {last}") from error
        raise
    return superlink


def load_superlink(home: Path) -> SuperLink | None:
    """Read the record of a SuperLink that was started in ``home``; None if there is none."""
    with suppress(OSError, ValueError, TypeError):
        return SuperLink(**json.loads((home / _RECORD).read_text(encoding="utf-8")))
    return None


def flower_home(checkout: Path = CHECKOUT) -> Path:
    """Return the folder of a checkout's Flower homes.

    Raises:
        RunError: this is not a checkout of the repository, so there is no app that could be run.
    """
    if not (checkout / "pyproject.toml").is_file():
        raise RunError(f"{checkout} is not a checkout of the repository: clone it and run from there")
    return checkout / ".lavq" / "flwr"


def end_abandoned(homes: Path) -> None:
    """End the SuperLinks below ``homes`` whose owner died without ending them."""
    for record in homes.glob(f"*/{_RECORD}"):
        superlink = load_superlink(record.parent)
        if superlink is not None and superlink.owner and not psutil.pid_exists(superlink.owner):
            superlink.stop()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RunError(f"it ended with status {process.returncode}")
        with suppress(OSError), opener.open(f"http://127.0.0.1:{port}/health", timeout=1.0):
            return
        time.sleep(0.1)
    raise RunError(f"no answer within {_START_TIMEOUT:g} s")


def _signal(process: psutil.Process, kill: bool) -> None:
    with suppress(psutil.Error):
        if kill:
            process.kill()
        else:
            process.terminate()


def start_by_hand() -> dict[str, str]:
    """Start this checkout's SuperLink for ``flwr run`` typed by hand, if it is not running.

    Returns:
        What the shell must export.
    """
    home = flower_home() / "by-hand"
    superlink = load_superlink(home)
    if superlink is None or not superlink.processes():
        superlink = start_superlink(home, owner=0)
    return {"FLWR_HOME": superlink.home, **OFFLINE}


def stop_by_hand() -> None:
    """End what ``start_by_hand`` started.

    Raises:
        RunError: there is none.
    """
    superlink = load_superlink(flower_home() / "by-hand")
    if superlink is None:
        raise RunError("no SuperLink of this checkout is running: start one with python -m simulations.superlink start")
    superlink.stop()


def main() -> None:
    """Run ``python -m simulations.superlink start|stop``."""
    parser = argparse.ArgumentParser(
        prog="python -m simulations.superlink",
        description="Start or end this checkout's SuperLink, for flwr run typed by hand.",
        epilog='Example: eval "$(python -m simulations.superlink start)"',
    )
    parser.add_argument("action", choices=["start", "stop"])
    try:
        if parser.parse_args().action == "stop":
            stop_by_hand()
        else:
            exports = start_by_hand()
            sys.stdout.write("".join(f"export {key}={shlex.quote(value)}\n" for key, value in exports.items()))
    except LavqError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
