"""What a site starts in place of Flower's ``flwr-clientapp``: the same program behind the site's policy.

A server decides which app its sites run, and an app does what it likes with the data it finds. So the policy cannot be
left to the app. The site's SuperExec (``client.superexec``) runs this where Flower's would run ``flwr-clientapp``. Here
the bundle that the server sent is hashed before anything of it is unpacked. One that is not on the site's list is
answered by Flower's own error reply, and nothing of it has run.

The texts of exceptions that Flower itself would send (an app that cannot be imported, for example) are cut down to the
exception's class, since a text can name a patient.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from client.flower_adapter import Task, run_client_app
from client.policy import APP_HASH, SitePolicy
from lavq_core.errors import LavqError, PolicyError
from lavq_core.runs.events import EventLog
from lavq_core.runs.layout import SiteFolder
from server.deployment.folders import POLICY, SITE_DIR


def checked(policy: SitePolicy, folder: SiteFolder) -> Callable[[str], None]:
    """Make the check that a bundle's sha256 must pass before it is installed; it leaves the hash for the app.

    A refusal is written to the site's event log.
    """

    def check(digest: str) -> None:
        os.environ.pop(APP_HASH, None)
        try:
            policy.require_app(digest)
        except PolicyError as error:
            EventLog(folder.events).write("refused", reason=str(error))
            raise
        os.environ[APP_HASH] = digest

    return check


def launch(task: Task) -> Any:
    """Be Flower's ClientApp process, if the site's policy permits; returns the process's exit code."""
    try:
        policy, folder = SitePolicy.load(os.environ[POLICY]), SiteFolder(Path(os.environ[SITE_DIR]))
    except KeyError as error:
        sys.stderr.write(f"no app is run: {error.args[0]} is not set\n")
        return 2
    except LavqError as error:
        sys.stderr.write(f"no app is run: {error}\n")
        return 2
    return run_client_app(task, checked(policy, folder))
