"""What a person sees while a federation runs: one line a round, and a bar on a terminal."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from lavq_core.runs.events import read_events
from lavq_core.runs.layout import RunFolder

_LOOK = 0.3  # s between two looks at the event log


class RunProgress:
    """Shows a server's event log as it grows.

    Args:
        console: default standard output; a bar is drawn only if that is a terminal.
        opening: the first line.
        skip: events that the log holds already, of the run that goes on.
    """

    def __init__(
        self, console: Console | None = None, opening: str = "starting Flower (about 20 s)", skip: int = 0
    ) -> None:
        self._console, self._opening = console or Console(), opening
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID = self._progress.add_task(opening, total=None)
        self._shown = skip
        self._rounds = 0
        self._first = 1  # round of this session
        self._sites: list[str] = []

    def __enter__(self) -> RunProgress:
        self._progress.start()
        self._say(self._opening)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, events: Sequence[dict[str, Any]]) -> None:
        """Show what is new in the whole log ``events``."""
        for event in events[self._shown :]:
            self._show_one(event)
        self._shown = len(events)

    def _show_one(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "run-started":
                self._rounds = int(event["rounds"])
                self._progress.update(self._task, description="waiting for the sites", total=self._rounds)
            case "run-resumed":
                self._rounds, self._first = int(event["rounds"]), int(event["round"]) + 1
                self._say(f"going on after round {event['round']}")
                self._progress.update(self._task, description="waiting for the sites", total=self._rounds)
            case "checkpoint-rejected":
                self._say(f"the checkpoint of round {event['round']} cannot be used: {event['reason']}")
            case "site-joined":
                self._sites.append(str(event["site"]))
            case "site-left":
                self._say(f"{event['site']} has left")
            case "site-returned":
                self._say(f"{event['site']} is back")
            case "site-asked-again":
                self._say(f"round {event['round']}: asking {event['site']} again: {event['status']}")
            case "round-started":
                if event["round"] == self._first:
                    self._say(f"sites: {', '.join(self._sites)}")
                self._progress.update(self._task, description=f"round {event['round']} of {self._rounds}")
            case "site-replied" | "site-left-out" | "site-evaluated" if event["status"] != "ok":
                self._say(f"round {event['round']}: left out {event['site']}: {event['status']}")
            case "site-replied":
                self._progress.update(
                    self._task, description=f"round {event['round']} of {self._rounds}: {event['site']} trained"
                )
            case "round-finished":
                self._say(
                    f"round {event['round']} of {self._rounds}: {event['sites']} sites, {float(event['seconds']):.1f} s"
                )
                self._progress.update(self._task, completed=int(event["round"]))
            case "run-failed":
                self._say(f"failed: {event['reason']}")

    def _say(self, line: str) -> None:
        self._console.print(escape(line), highlight=False, soft_wrap=True)


@contextmanager
def following(run: RunFolder) -> Iterator[None]:
    """Show the events of a run that goes on in this process, from a thread that only looks."""
    ended = threading.Event()
    with RunProgress(opening="opening the hospitals' data", skip=len(read_events(run.events))) as progress:

        def look() -> None:
            while not ended.wait(_LOOK):
                progress.show(read_events(run.events))

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            progress.show(read_events(run.events))
