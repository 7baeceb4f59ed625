"""A real ``flwr run`` of this repository on this machine, from start to verdict.

Starts a SuperLink, submits the run, shows progress from the server's event log, keeps Flower's own log in
``RUN/flower.log``, asks Flower how the run ended (``flwr run`` exits with 0 even when it failed) and ends everything
that it started.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lavq_core.config import compose
from lavq_core.errors import ConfigError, RunError
from lavq_core.runs.events import read_events
from lavq_core.runs.layout import RunFolder, write_atomic
from server.flower_environment import last_words, program
from simulations.progress import RunProgress
from simulations.superlink import CHECKOUT, CONNECTION, SuperLink, end_abandoned, flower_home, start_superlink

_LOOK = 0.3  # s between two looks at the event log
_STATUS_TIMEOUT = 60.0  # s that Flower gets to write down how a run ended, after its log has ended


@dataclass(frozen=True)
class Machine:
    """What a simulation may use of this machine.

    Attributes:
        clients: simulated sites.
        workers: sites that train at the same time, one core each.
        gpus: share of a GPU that each of them gets, 0 to 1.
    """

    clients: int
    workers: int
    gpus: float

    @classmethod
    def share(cls, clients: int, device: str) -> Machine:
        """Deal out the cores, and the GPUs unless ``device`` is ``cpu``."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = max(1, min(clients, cores))
        gpus = 0 if device == "cpu" else torch.cuda.device_count()
        share = math.floor(1000 * gpus / workers) / 1000  # rounded up, one worker less would fit
        return cls(clients, workers, min(1.0, share))

    def federation_config(self) -> str:
        """Return the value of ``flwr run --federation-config``."""
        return (
            f"num-supernodes={self.clients} init-args-num-cpus={self.workers} "
            f"client-resources-num-cpus=1 client-resources-num-gpus={self.gpus:.3f}"
        )


def run_federation(overrides: list[str], clients: int) -> None:
    """Run the federation of this checkout with ``flwr run`` and ``clients`` simulated sites.

    Args:
        overrides: Hydra overrides; ``run.dir`` and ``data.dir`` must be among them, as absolute folders, because the
            app runs from a bundle in another working directory.
        clients: number of simulated sites.

    Raises:
        ConfigError: an override that cannot be composed, or a folder that is not absolute.
        RunError: the run failed; the message gives the reason and where the log lies.
    """
    config = compose(overrides)
    for key, value in (("run.dir", config.run.dir), ("data.dir", config.data.dir)):
        if not Path(value).is_absolute():
            raise ConfigError(f"{key} must be an absolute folder, not {value!r}: add {key}=/absolute/folder")
    machine = Machine.share(clients, config.run.device)
    run_app(CHECKOUT, overrides, machine, RunFolder(Path(config.run.dir)), config.run.resume)


def run_app(app: Path, overrides: Sequence[str], machine: Machine, run: RunFolder, resume: bool = False) -> None:
    """Run a Flower app whose server writes its event log into ``run``.

    Args:
        app: folder with the app's ``pyproject.toml``; its Flower home is ``.lavq/flwr`` below.
        overrides: become the run config's ``overrides``, shell-quoted.
        machine: sites and resources.
        run: folder for the log; must not hold a run unless that goes on.
        resume: the overrides say so, too.

    Raises:
        RunError: the run failed, or the folder holds a run.
    """
    if run.events.exists() and not resume:
        raise RunError(f"{run.root} holds a run already: give another run.dir, or remove that folder first")
    homes = flower_home(app)
    end_abandoned(homes)
    run.root.mkdir(parents=True, exist_ok=True)
    log = run.root / "flower.log"
    with _ending_on_sigterm(), RunProgress(skip=len(read_events(run.events))) as progress:
        superlink = start_superlink(homes / f"run-{secrets.token_hex(4)}", owner=os.getpid())
        try:
            _follow(_submit(superlink, app, overrides, machine, log), run, progress)
            reason = _failure(_final_status(superlink), run)
            if reason is not None:
                raise RunError(f"the federation failed: {reason}; Flower's log is {log}")
        except RunError:
            _append(superlink.log(), log)
            raise
        finally:
            superlink.stop()


def _submit(
    superlink: SuperLink, app: Path, overrides: Sequence[str], machine: Machine, log: Path
) -> subprocess.Popen[bytes]:
    # A file, because Flower's key=value form has no escapes: a value with both kinds of quotes cannot be written.
    run_config = Path(superlink.home) / "run-config.toml"
    write_atomic(run_config, f"overrides = {json.dumps(shlex.join(overrides), ensure_ascii=False)}\n")
    command = [program("flwr"), "run", str(app), CONNECTION, "--stream", "--run-config", str(run_config)]
    command += ["--federation-config", machine.federation_config()]
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env=superlink.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def _follow(process: subprocess.Popen[bytes], run: RunFolder, progress: RunProgress) -> None:
    """Show progress until Flower's log stream ends."""
    while process.poll() is None:
        progress.show(read_events(run.events))
        time.sleep(_LOOK)
    progress.show(read_events(run.events))
    if process.returncode != 0:
        log = run.root / "flower.log"
        raise RunError(f"flwr run did not take the app: {last_words(log)}; Flower's log is {log}")


def _final_status(superlink: SuperLink) -> dict[str, Any]:
    """Ask ``flwr list`` for its row about the one run of this SuperLink, until that has finished."""
    deadline = time.monotonic() + _STATUS_TIMEOUT
    command = [program("flwr"), "list", CONNECTION, "--format", "json"]
    while True:
        answer = subprocess.run(command, env=superlink.environment(), capture_output=True, text=True, check=False)
        runs = json.loads(answer.stdout).get("runs", []) if answer.returncode == 0 else []
        if runs and str(runs[0]["status"]).startswith("finished"):
            return dict(runs[0])
        if time.monotonic() > deadline:
            return {"status": "unknown", "status-details": answer.stdout[-200:] + answer.stderr[-200:]}
        time.sleep(1.0)


def _failure(row: dict[str, Any], run: RunFolder) -> str | None:
    """Return why the run failed, None if it did not: Flower and the server's event log must both say that it ended."""
    events = read_events(run.events)
    last = events[-1] if events else {}
    if last.get("event") == "run-failed":
        return str(last["reason"])
    if row["status"] != "finished:completed":
        details = " ".join(str(row.get("status-details", "")).split())
        return f"Flower says {row['status']} ({details})"
    if last.get("event") != "run-finished":
        return "Flower says that it completed, but the server's event log does not"
    return None


def _append(source: Path, log: Path) -> None:
    """Add the SuperLink's own output to the run's log before its folder goes."""
    if source.is_file():
        with log.open("ab") as file:
            file.write(b"\n--- SuperLink ---\n" + source.read_bytes())


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that what was started is ended; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
