"""The server's events as TensorBoard scalars."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from lavq_core.errors import ConfigError
from lavq_core.runs.events import Event

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_NAMES = {"site-replied": "train", "site-evaluated": "evaluate"}
_NUMBERS = ("bytes_down", "bytes_up", "seconds", "examples")


class ScalarWriter:
    """A watcher of the server's event log; the step of every scalar is the round.

    Tags: ``round/seconds``, ``round/sites``, and ``train/NUMBER/SITE`` and ``evaluate/NUMBER/SITE`` for ``bytes_down``,
    ``bytes_up``, ``seconds``, ``examples`` and ``ok`` (1 where the reply was used, else 0).

    Args:
        folder: for TensorBoard's files.

    Raises:
        ConfigError: the package ``tensorboard`` is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError(
                "run.tensorboard needs the package tensorboard: pip install 'lavq[tensorboard]', or leave it false"
            ) from None
        self._make, self._folder = SummaryWriter, folder
        self._writer: SummaryWriter | None = None

    def __enter__(self) -> ScalarWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def __call__(self, event: Event) -> None:
        """Write what an event has of numbers; rounds that a resumed run does again are taken off the curves."""
        kind, step = event["event"], event.get("round")
        if kind in ("run-started", "run-resumed"):
            self._writer = self._make(str(self._folder), purge_step=None if step is None else step + 1)
        if self._writer is None:  # what a resume says before it begins
            return
        if kind == "round-finished":
            for name in ("seconds", "sites"):
                self._writer.add_scalar(f"round/{name}", event[name], step)
            self._writer.flush()
        if kind in _NAMES and step:
            numbers = {name: event[name] for name in _NUMBERS if event.get(name) is not None}
            for name, value in {**numbers, "ok": int(event["status"] == "ok")}.items():
                self._writer.add_scalar(f"{_NAMES[kind]}/{name}/{event['site']}", value, step)
