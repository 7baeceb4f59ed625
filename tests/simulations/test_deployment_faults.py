"""What fails in a deployment, with real processes, and what becomes of the run.

They take half an hour and need ``LAVQ_LONG=1``. What is expected of each is said in ``server/deployment/README.md``.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from lavq_core.errors import RunError
from lavq_core.runs.events import read_events
from server.deployment.certificates import write_node_key
from server.deployment.folders import Deployment
from server.deployment.loopback import status
from server.deployment.submission import CHECKOUT, connected_nodes
from server.deployment.supervisor import load_state
from server.flower_adapter import app_digest
from tests.simulations.deployed import (
    audited,
    begin,
    finish,
    largest_difference,
    made,
    pid_of,
    running,
    seen,
    simulated,
    site_events,
    until,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("LAVQ_LONG"), reason="THE FAULTS OF A DEPLOYMENT: set LAVQ_LONG=1"),
]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with running(made(tmp_path_factory.mktemp("federation"))) as deployment:
        yield deployment


def client_app(federation: Deployment, site: str) -> psutil.Process | None:
    """The process in which a site trains: a child of the warm one below its SuperExec that has worked for a while.

    One that is killed sooner, before it has said that it lives, Flower gives to another one after half a minute.
    """
    with suppress(psutil.Error):
        (warm,) = psutil.Process(pid_of(federation, f"superexec-{site}")).children()
        return next((child for child in warm.children() if child.cpu_times().user > 1.5), None)
    return None


def test_a_killed_client_app_costs_its_site_an_answer_and_the_round_goes_on(federation: Deployment) -> None:
    begun = begin(federation, "app-killed", "federation.rounds=2", "federation.retries=1")
    until(seen(begun[1], "round-started"))
    until(lambda: client_app(federation, "site-1")).kill()
    run = finish(federation, begun)
    events = read_events(run.events)
    assert any(e.get("site") == "site-1" and e.get("status", "ok") != "ok" for e in events)
    assert [e["sites"] for e in events if e["event"] == "round-finished"] == [3, 3]


def test_a_killed_supernode_is_started_again_until_it_is_let_in(federation: Deployment) -> None:
    starts = {row.name: row.starts for row in status(federation)}
    os.kill(pid_of(federation, "supernode-site-0"), signal.SIGKILL)
    until(lambda: {row.name: row.starts for row in status(federation)}["supernode-site-0"] > starts["supernode-site-0"])
    time.sleep(20.0)
    until(lambda: connected_nodes(federation.server) == 3, 240.0)
    run = finish(federation, begin(federation, "node-killed", "federation.rounds=1"))
    assert read_events(run.events)[-2]["sites"] == 3


def test_a_superlink_that_is_back_soon_costs_nothing(federation: Deployment) -> None:
    begun = begin(federation, "link-killed", "federation.rounds=2")
    until(seen(begun[1], "round-started"))
    os.kill(pid_of(federation, "superlink"), signal.SIGKILL)
    run = finish(federation, begun)
    assert [e["sites"] for e in read_events(run.events) if e["event"] == "round-finished"] == [3, 3]


def test_a_run_goes_on_from_its_checkpoint_after_a_long_outage(federation: Deployment, tmp_path: Path) -> None:
    begun = begin(federation, "outage", "federation.rounds=2", "federation.round_timeout=300")
    until(seen(begun[1], "round-finished"))
    gone = time.monotonic() + 90.0
    while time.monotonic() < gone:
        if (pid := pid_of(federation, "superlink")) and psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.3)
    until(lambda: connected_nodes(federation.server) == 3, 400.0)
    try:
        run = finish(federation, begun)  # the run may outlive it where everybody's patience lasts
    except RunError:
        until(lambda: not server_apps(federation), 120.0)
        run = finish(
            federation, begin(federation, "outage", "federation.rounds=2", "federation.round_timeout=300", resume=True)
        )
    assert largest_difference(run, simulated(tmp_path, 2)) < 1e-5


def server_apps(federation: Deployment) -> list[psutil.Process]:
    state = load_state(federation)
    return [p for p in (state.processes() if state else []) if any("flwr-serverapp" in word for word in p.cmdline())]


def test_a_foreign_app_is_refused_before_any_of_it_runs(federation: Deployment, tmp_path: Path) -> None:
    foreign, stolen = tmp_path / "foreign", tmp_path / "stolen"
    shutil.copytree(CHECKOUT, foreign, ignore=shutil.ignore_patterns(".git", "tests", ".*cache", "results"))
    app = foreign / "client" / "app.py"
    app.write_text(f"from pathlib import Path\nPath({str(stolen)!r}).write_text('here')\n" + app.read_text())
    begun = begin(federation, "foreign", "federation.rounds=1", "federation.join_timeout=60", app=foreign)
    with pytest.raises(RunError):
        finish(federation, begun)
    assert not stolen.exists()
    for node in federation.sites():
        assert "does not list the app" in site_events(node)[-1]["reason"]
        assert not list((node.flower_home / "apps").glob(f"*{app_digest(foreign)[:8]}*"))
    statuses = {e["status"] for e in read_events(begun[1].events) if "status" in e}
    assert statuses == {"failed: PolicyError"}


def test_a_node_with_an_unregistered_key_does_not_come_in_and_the_others_go_on(federation: Deployment) -> None:
    """Its public half lies in ``keys/``, so that the gateway lets it through; the SuperLink was never told of it."""
    node, public = federation.site("rest"), federation.server.public_key("rest")
    kept = (node.node_key.read_bytes(), public.read_bytes())
    write_node_key(node.node_key, public)
    try:
        os.kill(pid_of(federation, "supernode-rest"), signal.SIGTERM)
        until(lambda: connected_nodes(federation.server) == 2, 120.0)
        run = finish(federation, begin(federation, "unregistered", "federation.rounds=1", "federation.join_timeout=45"))
        assert read_events(run.events)[-2]["sites"] == 2
        said = [(one["status"], one.get("reason")) for one in audited(federation)[-500:] if one["site"] == "rest"]
        assert any(status >= 400 and reason == "the SuperLink said so" for status, reason in said)
    finally:
        node.node_key.write_bytes(kept[0])
        public.write_bytes(kept[1])
    until(lambda: connected_nodes(federation.server) == 3, 240.0)
