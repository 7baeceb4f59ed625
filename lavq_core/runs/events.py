"""The event log: JSON lines, appended, never rewritten."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Event = dict[str, Any]
# What happens once in a round, or once in a round and at a site.
_ONCE = ("round-started", "site-replied", "site-evaluated", "round-finished", "round-trained", "round-evaluated")


class EventLog:
    """Append events to a JSONL file.

    Every line is ``{"time": ISO 8601 UTC, "event": NAME, ...}``. One ``write`` call per line keeps lines whole when a
    process is killed between events; after a line that was cut short all the same, the next one starts afresh.

    Args:
        path: the file.
        watchers: called with every event after it was written.
    """

    def __init__(self, path: Path, *watchers: Callable[[Event], None]) -> None:
        self.path = path
        self._watchers = watchers

    def write(self, event: str, **fields: Any) -> None:
        """Append one event; ``fields`` must be JSON-serialisable."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("\n" if self._cut_short() else "") + json.dumps(whole) + "\n")
        for watch in self._watchers:
            watch(whole)

    def _cut_short(self) -> bool:
        """Tell whether the last line lacks its end."""
        with self.path.open("rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return False
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"


def read_events(path: Path) -> list[Event]:
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


def standing_events(events: Iterable[Event]) -> list[Event]:
    """Leave out what was undone: of a run that was resumed, each round is there once, as it was done in the end.

    A ``run-resumed`` takes back what was logged of later rounds than the one it names, since they are done again; of
    what happens once in a round, and is there twice all the same, the last one stands. This holds for the server's log
    and for a site's, which knows of no resume.
    """
    standing: list[Event] = []
    for event in events:
        if event.get("event") == "run-resumed":
            standing = [earlier for earlier in standing if (earlier.get("round") or 0) <= event["round"]]
        standing.append(event)
    last = {_identity(event, place): place for place, event in enumerate(standing)}
    return [standing[place] for place in sorted(last.values())]


def _identity(event: Event, place: int) -> tuple[Any, ...]:
    kind = event.get("event")
    return (kind, event.get("round"), event.get("site")) if kind in _ONCE and event.get("round") else (place,)
