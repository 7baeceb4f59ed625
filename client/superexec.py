"""A site's SuperExec: it runs the server's apps behind the site's policy, from a process that is warm.

Flower's SuperExec starts a program for every message that its SuperNode has, by the kind of its task. At a site:

- A ClientApp's is ``client.launcher``, which hashes the bundle before anything of it is unpacked.
- It is not started afresh. Before SuperExec has read its secret, a process is forked off that imports what our app
  imports, torch and the rest, which takes seconds; for every message it forks again, and the child runs the launcher.
  So every message has a process of its own, as ever, which has neither the secret nor a trace of the message before.
- Any other kind of task (an AgentApp, for one, is also code from the server) is refused, and the site's event
  log has a line of it: nothing but the launcher stands between a server's code and the data.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from client.flower_adapter import Task, run_superexec
from client.launcher import launch
from lavq_core.runs.events import EventLog
from lavq_core.runs.layout import SiteFolder
from server.deployment.folders import SITE_DIR

# Ours only for what it imports: a child forgets our packages, and has those of the bundle.
_IMPORTED = ("client.app", "sklearn.decomposition", "sklearn.feature_extraction.text")


class Starter:
    """The warm process, as SuperExec sees it."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests

    def start(self, task: Task) -> None:
        """Let a child do a task.

        Raises:
            OSError: the warm process is gone.
        """
        self._requests.sendall(json.dumps(task).encode() + b"\n")


def warm(modules: Sequence[str], run: Callable[[Task], Any]) -> Starter:
    """Fork off a process that imports modules and then forks for every task that it is given.

    It ends with the process that has the ``Starter``.

    Args:
        modules: imported once.
        run: called in every child, with its task; what it returns is the child's exit code.
    """
    ours, theirs = socket.socketpair()
    if os.fork():
        theirs.close()
        return Starter(ours)
    ours.close()
    _ended_by(lambda: _fork_for_each(theirs, modules, run))
    raise AssertionError("not reached")


def _fork_for_each(requests: socket.socket, modules: Sequence[str], run: Callable[[Task], Any]) -> None:
    for module in modules:
        import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    with requests.makefile(encoding="utf-8") as lines:
        for line in lines:
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                requests.close()
                _fresh_randomness()
                _ended_by(partial(run, json.loads(line)))


def _fresh_randomness() -> None:
    """NumPy's global generator is seeded when it is imported, so all children would have the same one."""
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()


def _ended_by(run: Callable[[], Any]) -> None:
    """Call, and end this process with what is returned: nothing of the process that it was forked from runs in it."""
    code: Any = 1
    try:
        code = run()
    except SystemExit as ending:
        code = ending.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def refuse(kind: str) -> None:
    """Write down that a task was refused."""
    folder = SiteFolder(Path(os.environ[SITE_DIR]))
    EventLog(folder.events).write("refused", reason=f"the server asked for {kind}: this site runs ClientApps alone")


def main() -> Any:
    """Run Flower's SuperExec; its arguments are Flower's."""
    return run_superexec(warm(_IMPORTED, launch).start, refuse)


if __name__ == "__main__":
    sys.exit(main())
