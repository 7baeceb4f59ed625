"""Flower's ``flower-superlink`` with more patience for its own database.

flwr 1.41.0 waits five seconds for a lock of its SQLite file and then answers 500, at which a ServerApp fails and a
SuperNode ends. On a busy machine five seconds are not much: three sites that pushed their updates at the same time were
enough. A minute is.
"""

from __future__ import annotations

import sys
from typing import Any

from flwr.supercore import sql_mixin
from flwr.superlink.cli import flower_superlink

_PATIENCE = 60_000  # ms


def main() -> Any:
    """Run the SuperLink; its arguments are Flower's."""
    module: Any = sql_mixin
    patient = {**dict(module.SQLITE_PRAGMAS), "busy_timeout": str(_PATIENCE)}
    module.SQLITE_PRAGMAS = tuple(patient.items())
    return flower_superlink()


if __name__ == "__main__":
    sys.exit(main())
