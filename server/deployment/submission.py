"""What the server's operator asks of the SuperLink: register nodes, say who is connected, run an app."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lavq_core.config import compose
from lavq_core.errors import ConfigError, RunError
from lavq_core.runs.events import read_events
from lavq_core.runs.layout import RunFolder, write_atomic
from server.deployment.folders import ServerFolder
from server.deployment.processes import CONNECTION, server_programs
from server.flower_environment import program

CHECKOUT = Path(__file__).resolve().parents[2]
_LOOK = 0.5  # s between two looks at a run's events
_ASK_FLOWER = 20.0  # s between two questions to Flower about a run that says nothing of an end; each starts a process


def register_nodes(server: ServerFolder) -> dict[str, str]:
    """Make the public keys in ``keys/`` known to the SuperLink; return what became of each site's."""
    done = {}
    for key in sorted((server.root / "keys").glob("*.pub")):
        answer = _flwr(server, "supernode", "register", str(key), CONNECTION, "--format", "json", check=False)
        text = f"{answer.stdout}{answer.stderr}"
        if answer.returncode == 0 and '"success": true' in answer.stdout:
            done[key.stem] = "registered"
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
    if "federation.min_sites" not in named:
        defaults.append(f"federation.min_sites={max(1, sites - 1) if sites < 4 else max(2, sites * 3 // 4)}")
    compose([*defaults, *overrides])
    return [*defaults, *overrides]


def follow(server: ServerFolder, run_id: str, run: RunFolder, show: Any) -> None:
    """Show the events of a run until it has ended.

    Raises:
        RunError: it failed.
    """
    seen, asked = len(read_events(run.events)), time.monotonic()
    while True:
        events = read_events(run.events)
        for event in events[seen:]:
            show(event)
        seen = len(events)
        last = events[-1]["event"] if events else ""
        row: dict[str, Any] = {}
        if last in ("run-finished", "run-failed") or time.monotonic() - asked > _ASK_FLOWER:
            row, asked = run_row(server, run_id), time.monotonic()
        ended = str(row.get("status", "")).startswith("finished")
        if ended and row["status"] == "finished:completed" and last == "run-finished":
            return
        if ended:
            reason = events[-1].get("reason") if last == "run-failed" else None
            details = " ".join(str(row.get("status-details", "")).split())
            raise RunError(f"the run failed: {reason or details or row['status']}; see {run.events}")
        time.sleep(_LOOK)


def _flwr(server: ServerFolder, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FLWR_")}
    environment |= server_programs(server)[0].environment
    answer = subprocess.run(
        [program("flwr"), *arguments], env=environment, cwd=server.work, capture_output=True, text=True, check=False
    )
    if check and answer.returncode != 0:
        raise RunError(f"flwr {arguments[0]} failed: {' '.join((answer.stdout + answer.stderr).split())[-300:]}")
    return answer
