"""The event log: JSON lines, appended, never rewritten."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class EventLog:
    """Append events to a JSONL file.

    Every line is ``{"time": ISO 8601 UTC, "event": NAME, ...}``. One ``write`` call per line keeps lines whole when a
    process is killed between events; after a line that was cut short all the same, the next one starts afresh.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: str, **fields: Any) -> None:
        """Append one event; ``fields`` must be JSON-serialisable."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("\n" if self._cut_short() else "") + line + "\n")

    def _cut_short(self) -> bool:
        """Tell whether the last line lacks its end."""
        with self.path.open("rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return False
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"


def read_events(path: Path) -> list[dict[str, Any]]:
    """Read a log; a line that a crash cut short is left out. A missing file is an empty log."""
    if not path.is_file():
        return []
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events
