"""How a command line is read: settings (KEY=VALUE) may stand anywhere in it."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any

_SETTING = re.compile(r"[~+]{0,2}[a-z_]+(\.\w+)*=")


class CommandParser(argparse.ArgumentParser):
    """A parser that takes settings out before it reads the rest, where its command has ``overrides``.

    argparse itself ends a list of positionals at the first option, and lets an option of several words (``--arms a b``)
    swallow a setting that follows.
    """

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's; the settings are in ``overrides``, in the order in which they stand."""
        words = sys.argv[1:] if args is None else list(args)
        takes = any(action.dest == "overrides" for action in self._actions)
        settings = [word for word in words if takes and _SETTING.match(word)]
        found: Any = super().parse_known_args([word for word in words if word not in settings], namespace)
        if takes:
            found[0].overrides = [*found[0].overrides, *settings]
        return found
