"""A deployment of three hospitals on the loopback interface, runs in it, and what its programs have written."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from lavq_core.data.database import Database
from lavq_core.runs.artefact import load_artefact
from lavq_core.runs.events import read_events
from lavq_core.runs.layout import RunFolder, SiteFolder
from server.deployment.folders import Deployment, SiteNodeFolder
from server.deployment.init import Plan, write_deployment
from server.deployment.loopback import start, stop
from server.deployment.submission import CHECKOUT, follow, prepared, submit
from server.deployment.supervisor import load_state
from server.flower_adapter import app_digest
from simulations.inprocess import run_in_process
from simulations.shares import write_shares

SAMPLE = CHECKOUT / "simulations" / "sample"
SITES = ["site-0", "site-1", "rest"]
SMALL = ["run.device=cpu", "detector.width=8", "detector.blocks=1", "detector_training.epochs=1", "federation.share=[]"]
SMALL += ["separator.width=16", "separator.blocks=1", "separator.heads=2", "separator_training.steps=1"]
SMALL += ["separator_training.batch=2", "separator_training.after=0", "codebook.size=6", "codebook.dim=8"]
SMALL += ["text.width=12", "twins.gallery=2", "detector_training.crop=1.0", "federation.round_timeout=420"]
PATIENCE = 600.0  # s


def free_base() -> int:
    """A port below which a run of ports is free enough for a test."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return min(int(probe.getsockname()[1]), 60000)


def made(folder: Path) -> Deployment:
    """Write a deployment as ``lavq deploy init`` does, for the hospitals of the sample."""
    write_shares(Database.open(SAMPLE, cache_dir=folder / "cache", progress=False), folder / "data", "site", 3)
    plan = Plan(SITES, ["localhost"], free_base(), folder / "data", [app_digest(CHECKOUT)], '"unlimited"', 5)
    return write_deployment(folder / "d", plan)


@contextmanager
def running(deployment: Deployment) -> Iterator[Deployment]:
    """Keep it running, and see that nothing of it is left."""
    start(deployment, lambda _: None)
    yield deployment
    state = load_state(deployment)
    stop(deployment)
    assert state is not None
    assert state.processes() == []


def simulated(folder: Path, rounds: int, settings: Sequence[str] = SMALL) -> RunFolder:
    """Do in this process what the deployment does."""
    run = RunFolder(folder / "simulated")
    where = [f"run.dir='{run.root}'", f"data.dir='{SAMPLE}'", f"data.cache_dir='{folder / 'cache'}'"]
    run_in_process([*where, *settings, f"federation.rounds={rounds}", "federation.sites=3"], 3)
    return run


Begun = tuple[str, RunFolder]


def begin(
    federation: Deployment,
    name: str,
    *more: str,
    resume: bool = False,
    app: Path = CHECKOUT,
    settings: Sequence[str] = SMALL,
) -> Begun:
    run = RunFolder(federation.server.state / "runs" / name)
    return submit(federation.server, prepared(federation.server, [*settings, *more], run, resume), app), run


def finish(federation: Deployment, begun: Begun) -> RunFolder:
    follow(federation.server, *begun, lambda _: None, PATIENCE)
    return begun[1]


def until(what: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.2)
    return found


def seen(run: RunFolder, event: str, count: int = 1) -> Callable[[], bool]:
    return lambda: sum(one["event"] == event for one in read_events(run.events)) >= count


def audited(federation: Deployment) -> list[dict[str, Any]]:
    return [event for file in sorted(federation.server.audit.iterdir()) for event in read_events(file)]


def pid_of(federation: Deployment, name: str) -> int:
    state = load_state(federation)
    return (state.programs[name]["pid"] or 0) if state else 0


def site_events(node: SiteNodeFolder) -> list[dict[str, Any]]:
    return read_events(SiteFolder(node.state).events)


def holds(folder: Path, text: bytes) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text in path.read_bytes()]


def largest_difference(one: RunFolder, other: RunFolder) -> float:
    (first, _), (second, _) = load_artefact(one.model), load_artefact(other.model)
    assert first.keys() == second.keys()
    return max(
        float((value.double() - second[part][key].double()).abs().max())
        for part, state in first.items()
        for key, value in state.items()
    )


def ask(federation: Deployment, site: str, path: str, headers: dict[str, str], content: bytes = b"") -> httpx.Response:
    """Ask the gateway with a site's certificate."""
    context = ssl.create_default_context(cafile=str(federation.site(site).ca))
    context.load_cert_chain(*federation.site(site).certificate("site"))
    url = f"https://localhost:{federation.server.settings().port}{path}"
    return httpx.post(url, verify=context, trust_env=False, headers=headers, content=content)


def contents(run: RunFolder) -> set[tuple[Any, ...]]:
    """How many bytes of content went to and came from each site, and with what."""
    kinds = ("site-replied", "site-evaluated")
    events = [event for event in read_events(run.events) if event["event"] in kinds]
    return {tuple(event[key] for key in ("event", "site", "status", "bytes_down", "bytes_up")) for event in events}


def listening(federation: Deployment) -> set[int]:
    """TCP ports on which any of its processes listens."""
    state = load_state(federation)
    assert state is not None
    return {c.laddr.port for p in state.processes() for c in p.net_connections("tcp") if c.status == "LISTEN"}
