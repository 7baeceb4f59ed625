"""What a person sees while a federation runs: one line a round, and a bar on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class RunProgress:
    """Shows a server's event log as it grows.

    Args:
        console: default standard output; a bar is drawn only if that is a terminal.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID = self._progress.add_task("starting Flower (about 20 s)", total=None)
        self._shown = 0
        self._rounds = 0
        self._sites: list[str] = []

    def __enter__(self) -> RunProgress:
        self._progress.start()
        self._say("starting Flower (about 20 s)")
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
            case "site-joined":
                self._sites.append(str(event["site"]))
            case "round-started":
                if event["round"] == 1:
                    self._say(f"sites: {', '.join(self._sites)}")
                self._progress.update(self._task, description=f"round {event['round']} of {self._rounds}")
            case "site-replied" | "site-evaluated" if event["status"] != "ok":
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
