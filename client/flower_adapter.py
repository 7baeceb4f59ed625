"""The site's one module that touches Flower's private API (written against flwr 1.41.0)."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from flwr.common.constant import APP_DIR, FAB_HASH_TRUNCATION
from flwr.supercore.constant import TaskType
from flwr.supercore.utils import get_flwr_home
from flwr.supernode.runtime import run_clientapp

if TYPE_CHECKING:
    from flwr.supercore.superexec.executor import ExecutionSpec

_PACKAGES = {"client", "configs", "lavq_core", "server", "simulations"}
_CLASS = re.compile(r"<class '(?:[\w.<>]*\.)?(\w+)'>.*", re.DOTALL)  # how Flower writes an exception into a reply


Task = dict[str, Any]
"""What a ClientApp's process is given: where its SuperNode is, a token, and whose end ends it."""


def run_client_app(task: Task, check: Callable[[str], None]) -> Any:
    """Be Flower's ClientApp process, with a check before a bundle is unpacked.

    Flower's process pulls the bundle, installs it and imports it, in this order; what is raised on the way becomes the
    error of its reply, with the exception's text. The installing function is replaced by one that checks first, the
    app's loader and the app by ones whose exceptions have lost their text.

    Args:
        task: from ``run_superexec``.
        check: given the sha256 of the bundle's bytes; the class of what it raises is what the server is told.
    """
    process: Any = run_clientapp
    # Read before anything is replaced: with a Flower that names them otherwise, no app is run.
    install, load, error = process.install_from_fab, process.get_load_client_app_fn, process.Error

    def checked_install(content: bytes, **_: Any) -> Path:
        digest = hashlib.sha256(content).hexdigest()
        without_text(lambda: check(digest))
        return without_text(lambda: _install_whole(install, content, digest))

    def loader(*args: Any, **more: Any) -> Callable[..., Any]:
        find = load(*args, **more)

        def find_app(*which: Any) -> Callable[..., Any]:
            _forget_packages()
            app = without_text(lambda: find(*which))
            return lambda **asked: without_text(lambda: app(**asked))

        return find_app

    process.install_from_fab, process.get_load_client_app_fn = checked_install, loader
    process.Error = lambda code, reason: error(code=code, reason=_CLASS.sub(r"\1", reason))
    return process.run_clientapp(insecure=True, **task)  # on the loopback interface


def _install_whole(install: Callable[..., Path], content: bytes, digest: str) -> Path:
    """Unpack a bundle once and as a whole: Flower takes what a killed process left half unpacked for the app."""
    apps = Path(get_flwr_home()) / APP_DIR
    apps.mkdir(parents=True, exist_ok=True)
    for there in apps.glob(f"*.{digest[:FAB_HASH_TRUNCATION]}"):
        return there
    with TemporaryDirectory(dir=apps) as staging:
        made = install(content, install_dir=Path(staging), skip_prompt=True)
        return made.rename(apps / made.name)


def run_superexec(start: Callable[[Task], None], refuse: Callable[[str], None]) -> Any:
    """Run ``flower-superexec`` in this process; its arguments are Flower's.

    Args:
        start: called where SuperExec would start a ClientApp's process.
        refuse: called with the kind of every other task, which the server is told has failed.
    """
    from flwr.supercore.cli import flower_superexec
    from flwr.supercore.superexec.executor import LaunchResult
    from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor

    def launch(self: SubprocessExecutor, spec: ExecutionSpec) -> LaunchResult:
        if spec.task_type is not TaskType.CLIENT_APP:
            refuse(str(spec.task_type))
            return LaunchResult.failed("PolicyError")
        address, token, parent = spec.runtime_api_address, spec.token, spec.parent_pid
        start({"runtime_api_address": address, "token": token, "parent_pid": parent})
        return LaunchResult.accepted()

    SubprocessExecutor.launch = launch  # type: ignore[method-assign]
    return flower_superexec()


def without_text(call: Callable[[], Any]) -> Any:
    """Call; what it raises becomes an exception whose class has the same name, without text, cause or traceback."""
    try:
        return call()
    except Exception as error:
        name = type(error).__name__
    raise type(name, (Exception,), {})


def _forget_packages() -> None:
    """Let the app's imports find the bundle that was checked, and not the packages of the same names installed here."""
    for name in [name for name in sys.modules if name.split(".")[0] in _PACKAGES]:
        del sys.modules[name]
