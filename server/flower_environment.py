"""The environment of Flower's programs: which of them, with which settings, on which port."""

from __future__ import annotations

import os
import socket
import sys
import sysconfig
from pathlib import Path

from lavq_core.errors import RunError

# No telemetry, no look for updates, no installs at run time: a run works without a network (DESIGN section 6).
OFFLINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def flower_environment(home: Path, scratch: str, mark: dict[str, str]) -> dict[str, str]:
    """Return the whole environment of a SuperLink, or of a ``flwr`` command that uses it.

    This process's environment without what would lead to another SuperLink or Ray cluster, and with this
    installation's programs first, because flwr and Ray start further programs by name.

    Args:
        home: ``FLWR_HOME``.
        scratch: folder of Ray's files.
        mark: one variable by which every process below is known.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("FLWR_", "RAY_"))}
    return {
        **inherited,
        **OFFLINE,
        **mark,
        "FLWR_HOME": str(home),
        "RAY_TMPDIR": scratch,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),  # one core a site; a simulation runs several
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]),
    }


def program(name: str) -> str:
    """Return the path of a program of this Python installation.

    Raises:
        RunError: it is not there.
    """
    path = Path(sysconfig.get_path("scripts")) / name
    if not path.is_file():
        raise RunError(f"{name} is not installed beside {sys.executable}: install this package with its dependencies")
    return str(path)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def last_words(log: Path) -> str:
    """Return what a program said last, in one line: the box of an error that ``flwr`` draws, else the last line."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    boxed = [line.strip("│ ") for line in lines if line.startswith("│")]
    return " ".join(boxed) or (lines[-1] if lines else "it wrote nothing")
