"""The site's one module that touches Flower's private API (written against flwr 1.41.0)."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable
from typing import Any

from flwr.supernode.cli import flwr_clientapp
from flwr.supernode.runtime import run_clientapp

_PACKAGES = {"client", "configs", "lavq_core", "server", "simulations"}
_CLASS = re.compile(r"<class '(?:[\w.<>]*\.)?(\w+)'>.*", re.DOTALL)  # how Flower writes an exception into a reply


def run_client_app(check: Callable[[str], None]) -> Any:
    """Run ``flwr-clientapp`` in this process, with a check before a bundle is unpacked.

    Flower's process pulls the bundle, installs it and imports it, in this order; what is raised on the way becomes the
    error of its reply, with the exception's text. The installing function is replaced by one that checks first, the
    app's loader and the app by ones whose exceptions have lost their text.

    Args:
        check: given the sha256 of the bundle's bytes; the class of what it raises is what the server is told.
    """
    process: Any = run_clientapp
    # Read before anything is replaced: with a Flower that names them otherwise, no app is run.
    install, load, error = process.install_from_fab, process.get_load_client_app_fn, process.Error

    def checked_install(content: bytes, *args: Any, **more: Any) -> Any:
        without_text(lambda: check(hashlib.sha256(content).hexdigest()))
        return without_text(lambda: install(content, *args, **more))

    def loader(*args: Any, **more: Any) -> Callable[..., Any]:
        find = load(*args, **more)

        def find_app(*which: Any) -> Callable[..., Any]:
            _forget_packages()
            app = without_text(lambda: find(*which))
            return lambda **asked: without_text(lambda: app(**asked))

        return find_app

    process.install_from_fab, process.get_load_client_app_fn = checked_install, loader
    process.Error = lambda code, reason: error(code=code, reason=_CLASS.sub(r"\1", reason))
    return flwr_clientapp()


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
