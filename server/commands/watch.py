"""``lavq watch``: a run that goes on, in the terminal or on a local page."""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lavq_core.runs.layout import RunFolder
    from lavq_core.runs.status import RunStatus
    from lavq_core.settings import Config

HELP = "follow a run that goes on: rounds, sites, losses, bytes, privacy budget, failures"
EXAMPLE = """\
  lavq watch runs/first
  lavq watch runs/first --web

ends with the run; the page (on this machine only) stays until Ctrl-C"""
_LOOK = 0.5  # s between two looks at the event log
_TROUBLES = 8  # failures shown, the newest


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("--web", action="store_true", help="serve a page that follows the run, on 127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="of the page (default: any free one)")
    parser.add_argument("--no-browser", action="store_true", help="print the page's address only, for you to open")


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    from rich.console import Console
    from rich.live import Live

    from lavq_core.config import load_config
    from lavq_core.runs.layout import RunFolder
    from lavq_core.runs.status import run_status

    run = RunFolder.open(args.run)
    config = load_config(run.config)
    if args.web:
        return _serve(run, config, args)
    console = Console()
    with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        while True:
            status = run_status(run)
            if live is not None:
                live.update(_view(run, config, status, str(args.run)), refresh=True)
            if status.state != "running":
                break
            time.sleep(_LOOK)
    if live is None:  # a file or a pipe gets what it came to
        console.print(_view(run, config, status, str(args.run)))
    return 0


def _view(run: RunFolder, config: Config, status: RunStatus, folder: str) -> RenderableType:
    """Everything on one screen."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    from lavq_core.report.evidence import troubles
    from lavq_core.runs.site_curves import site_curves
    from server.status_view import budget, heading, loss_table, site_table, trouble_lines

    rounds = status.rounds or config.federation.rounds
    parts: list[RenderableType] = [Text(line) for line in heading(status, run.root.name, rounds, folder)]
    parts.append(ProgressBar(total=rounds, completed=status.done))
    if status.sites:
        parts.append(site_table(status))
    curves = site_curves(run)
    parts.append(loss_table(curves) if curves else Text("losses and scores stay at the hospitals"))
    parts.append(Text(budget(config, status)))
    parts += [Text(line, style="yellow") for line in trouble_lines(troubles(run)[-_TROUBLES:])]
    return Group(*parts)


def _serve(run: RunFolder, config: Config, args: argparse.Namespace) -> int:
    from rich.console import Console

    from lavq_core.web.local_page import new_token, serve
    from server.watch.app import Watch

    console, token = Console(stderr=True, soft_wrap=True, highlight=False, markup=False), new_token()

    def say(address: str) -> None:
        console.print(f"live view of {run.root.name}: {address}")
        console.print("on this machine only; Ctrl-C ends it")

    serve(Watch(run, config).app(token), args.port, token, say, not args.no_browser)
    return 0
