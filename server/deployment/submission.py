"""What the server's operator asks of the SuperLink: register nodes, say who is connected, run an app."""

from __future__ import annotations

import json
import math
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lavq_core.config import compose
from lavq_core.errors import ConfigError, RunError
from lavq_core.runs.events import Event, read_events
from lavq_core.runs.layout import RunFolder, write_atomic
from server.deployment.folders import ServerFolder, read_nodes
from server.deployment.processes import CONNECTION, server_programs
from server.flower_environment import program

CHECKOUT = Path(__file__).resolve().parents[2]
_LOOK = 0.5  # s between two looks at a run's events
_ASK_FLOWER = 20.0  # s between two questions to Flower about a run that says nothing of an end; each starts a process
_ANSWER = 120.0  # s that a command of Flower may take
_SILENCE = 900.0  # s without any answer of the SuperLink, after which a run is followed no longer
_CLOSING = 180.0  # s between a run's last event and the end of its process


def register_nodes(server: ServerFolder) -> dict[str, str]:
    """Make the public keys in ``keys/`` known to the SuperLink; return what became of each site's.

    The SuperLink says once which node it made of a key: that is kept, so that no site can give itself another's name.
    """
    done, nodes = {}, read_nodes(str(server.nodes)) if server.nodes.is_file() else {}
    for key in sorted((server.root / "keys").glob("*.pub")):
        answer = _flwr(server, "supernode", "register", str(key), CONNECTION, "--format", "json", check=False)
        text = f"{answer.stdout}{answer.stderr}"
        if answer.returncode == 0 and '"success": true' in answer.stdout:
            done[key.stem] = "registered"
            node = int(json.loads(answer.stdout)["node-id"])
            nodes = {other: site for other, site in nodes.items() if site != key.stem} | {node: key.stem}
            write_atomic(server.nodes, json.dumps(nodes, indent=2) + "\n")
        elif "already in use" in text:
            done[key.stem] = "was registered before"
        else:
            raise RunError(f"the SuperLink did not take the key of {key.stem}: {' '.join(text.split())[-300:]}")
    return done


def connected_nodes(server: ServerFolder) -> int:
    """Count the nodes that are online."""
    answer = _flwr(server, "supernode", "list", CONNECTION, "--format", "json", check=False)
    try:
        return sum(node["status"] == "online" for node in json.loads(answer.stdout)["nodes"])
    except (ValueError, KeyError, TypeError):
        return 0


def submit(server: ServerFolder, overrides: Sequence[str], app: Path = CHECKOUT) -> str:
    """Hand an app to the SuperLink; return the run's id.

    Args:
        server: its folder.
        overrides: Hydra overrides; become the run config's ``overrides``.
        app: folder with the app's ``pyproject.toml``.

    Raises:
        RunError: it was not taken.
    """
    run_config = server.flower_home / "run-config.toml"
    write_atomic(run_config, f"overrides = {json.dumps(shlex.join(overrides), ensure_ascii=False)}\n")
    command = ["run", str(app), CONNECTION, "--run-config", str(run_config), "--format", "json"]
    answer = _flwr(server, *command)
    try:
        return str(json.loads(answer.stdout)["run-id"])
    except (ValueError, KeyError):
        text = " ".join(f"{answer.stdout}{answer.stderr}".split())
        raise RunError(f"the SuperLink did not take the app: {text[-300:]}") from None


def run_row(server: ServerFolder, run_id: str) -> dict[str, Any]:
    """Return Flower's row about a run."""
    answer = _flwr(server, "list", CONNECTION, "--run-id", run_id, "--format", "json", check=False)
    try:
        return dict(json.loads(answer.stdout)["runs"][0])
    except (ValueError, KeyError, IndexError):
        return {"status": "unknown"}


def prepared(server: ServerFolder, overrides: Sequence[str], run: RunFolder, resume: bool) -> list[str]:
    """Add to overrides where the run lies and how many sites there are, unless they say so.

    Raises:
        ConfigError: a setting that does not exist, or a folder that the operator may not choose here.
    """
    named = {override.split("=")[0] for override in overrides}
    if "run.dir" in named:
        raise ConfigError("the run's folder is made in state/runs: give its name with --name, and leave out run.dir")
    sites = len(server.settings().sites)
    defaults = [f"run.dir='{run.root}'", f"run.resume={str(resume).lower()}"]
    if "federation.sites" not in named:
        defaults.append(f"federation.sites={sites}")
    if server.nodes.is_file():
        defaults.append(f"federation.nodes='{server.nodes}'")
    if "federation.min_sites" not in named:
        defaults.append(f"federation.min_sites={max(1, sites - 1) if sites < 4 else max(2, sites * 3 // 4)}")
    compose([*defaults, *overrides])
    return [*defaults, *overrides]


def follow(
    server: ServerFolder, run_id: str, run: RunFolder, show: Callable[[Event], None], patience: float = math.inf
) -> None:
    """Show the events of a run until it has ended.

    Args:
        server: its folder.
        run_id: as ``submit`` gave it.
        run: where the run's events are.
        show: called with each event from now on.
        patience: s, after which the run is followed no longer. It goes on all the same.

    Raises:
        RunError: it failed, took longer than ``patience``, or nothing says any more how it stands.
    """
    seen = before = len(read_events(run.events))  # a resumed run has told of its first end already
    asked = heard = told = began = time.monotonic()
    while True:
        events = read_events(run.events)
        for event in events[seen:]:
            show(event)
            told = heard = time.monotonic()
        seen = len(events)
        over = seen > before and events[-1]["event"] in ("run-finished", "run-failed")
        if over or time.monotonic() - max(asked, told) > _ASK_FLOWER:
            row, asked = run_row(server, run_id), time.monotonic()
            if row["status"] != "unknown":
                heard = asked
            if str(row["status"]).startswith("finished"):
                return _require_completed(row, events, run)
        now = time.monotonic()
        if over and now - told > _CLOSING:
            raise RunError(f"the run says that it has ended, but its process has not: see {run.events}")
        if now - heard > _SILENCE:
            raise RunError(f"the SuperLink has not answered for {_SILENCE:g} s: see its log, and {run.events}")
        if now - began > patience:
            raise RunError(f"the run has not ended within {patience:g} s and goes on: see {run.events}")
        time.sleep(_LOOK)


def _require_completed(row: Mapping[str, Any], events: Sequence[Event], run: RunFolder) -> None:
    """Raise a RunError unless both Flower and the run's own last event say that all went well."""
    last = events[-1] if events else {"event": ""}
    if row["status"] == "finished:completed" and last["event"] == "run-finished":
        return
    reason = last.get("reason") if last["event"] == "run-failed" else None
    details = " ".join(str(row.get("status-details", "")).split())
    raise RunError(f"the run failed: {reason or details or row['status']}; see {run.events}")


def _flwr(server: ServerFolder, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FLWR_")}
    environment |= server_programs(server)[0].environment
    command = [program("flwr"), *arguments]
    try:
        answer = subprocess.run(
            command,
            env=environment,
            cwd=server.work,
            stdin=subprocess.DEVNULL,  # it could ask something, and nobody would answer
            capture_output=True,
            text=True,
            check=False,
            timeout=_ANSWER,
        )
    except subprocess.TimeoutExpired:
        answer = subprocess.CompletedProcess(command, 124, "", f"no answer within {_ANSWER:g} s: is the SuperLink up?")
    if check and answer.returncode != 0:
        raise RunError(f"flwr {arguments[0]} failed: {' '.join((answer.stdout + answer.stderr).split())[-300:]}")
    return answer
