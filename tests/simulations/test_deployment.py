"""A whole deployment with real processes: server, gateway and three sites on the loopback interface, with mTLS.

They take minutes (the first) to a quarter of an hour (the faults) and need ``LAVQ_LONG=1``. What is expected of each is
said in ``server/deployment/README.md``.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from lavq_core.data.database import Database
from lavq_core.errors import RunError
from lavq_core.models.stored import load_shared_model
from lavq_core.runs.artefact import load_artefact
from lavq_core.runs.events import read_events
from lavq_core.runs.layout import RunFolder, SiteFolder
from server.deployment.certificates import write_node_key
from server.deployment.folders import Deployment, SiteNodeFolder
from server.deployment.init import Plan, write_deployment
from server.deployment.loopback import start, status, stop
from server.deployment.submission import CHECKOUT, connected_nodes, follow, prepared, submit
from server.deployment.supervisor import load_state
from server.flower_adapter import app_digest
from simulations.inprocess import run_in_process
from simulations.shares import write_shares

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("LAVQ_LONG"), reason="DEPLOYMENT WAS NOT TESTED WITH REAL PROCESSES: set LAVQ_LONG=1"
    ),
]

SAMPLE = CHECKOUT / "simulations" / "sample"
SITES = ["site-0", "site-1", "rest"]
SMALL = ["run.device=cpu", "detector.width=8", "detector.blocks=1", "detector_training.epochs=1", "federation.share=[]"]
SMALL += ["separator.width=16", "separator.blocks=1", "separator.heads=2", "separator_training.steps=1"]
SMALL += ["separator_training.batch=2", "separator_training.after=0", "codebook.size=6", "codebook.dim=8"]
SMALL += ["text.width=12", "twins.gallery=2", "detector_training.crop=1.0", "federation.round_timeout=420"]
PATIENCE = 600.0  # s


def free_base() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return min(int(probe.getsockname()[1]), 60000)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("federation")
    write_shares(Database.open(SAMPLE, cache_dir=folder / "cache", progress=False), folder / "data", "site", 3)
    plan = Plan(SITES, ["localhost"], free_base(), folder / "data", [app_digest(CHECKOUT)], '"unlimited"', 5)
    deployment = write_deployment(folder / "d", plan)
    start(deployment, lambda _: None)
    yield deployment
    state = load_state(deployment)
    stop(deployment)
    assert state is not None
    assert state.processes() == []


Begun = tuple[str, RunFolder]


def begin(federation: Deployment, name: str, *more: str, resume: bool = False, app: Path = CHECKOUT) -> Begun:
    run = RunFolder(federation.server.state / "runs" / name)
    return submit(federation.server, prepared(federation.server, [*SMALL, *more], run, resume), app), run


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


def ask(federation: Deployment, site: str, path: str, **more: Any) -> httpx.Response:
    """Ask the gateway with a site's certificate."""
    context = ssl.create_default_context(cafile=str(federation.site(site).ca))
    context.load_cert_chain(*federation.site(site).certificate("site"))
    url = f"https://localhost:{federation.server.settings().port}{path}"
    return httpx.post(url, verify=context, trust_env=False, **more)


def test_hospitals_train_to_the_simulations_very_result_and_let_out_nothing_else(
    federation: Deployment, tmp_path: Path
) -> None:
    began = begin(federation, "first", "federation.rounds=1")
    simulated = RunFolder(tmp_path / "simulated")
    where = [f"run.dir='{simulated.root}'", f"data.dir='{SAMPLE}'", f"data.cache_dir='{tmp_path / 'cache'}'"]
    run_in_process([*where, *SMALL, "federation.rounds=1", "federation.sites=3"], 3)
    run = finish(federation, began)
    assert largest_difference(run, simulated) < 1e-5

    assert contents(run) == contents(simulated)

    # an outsider's, and a site's own, way to the control API
    assert ask(federation, "rest", "/v1/control/list-nodes").status_code == 404
    assert audited(federation)[-1]["reason"] == "no such route here"
    assert {line["path"].rpartition("/")[0] for line in audited(federation) if line["status"] == 200} == {"/v1/fleet"}
    listening = {c.laddr.ip for p in outward(federation) for c in p.net_connections() if c.status == "LISTEN"}
    assert listening == {"127.0.0.1"}

    for node in federation.sites():
        kept = SiteFolder(node.state)
        assert load_shared_model(kept.accepted).classes
        assert kept.predictions.is_file()
        report = (Path(node.settings().data_dir) / "ptbxl_database.csv").read_text().splitlines()[1]
        text = max(report.split(","), key=len).encode()
        assert len(text) > 15
        assert holds(federation.server.root, text) == []


def contents(run: RunFolder) -> set[tuple[Any, ...]]:
    """How many bytes of content went to and came from each site, and with what."""
    kinds = ("site-replied", "site-evaluated")
    events = [event for event in read_events(run.events) if event["event"] in kinds]
    return {tuple(event[key] for key in ("event", "site", "status", "bytes_down", "bytes_up")) for event in events}


def outward(federation: Deployment) -> list[psutil.Process]:
    """Everything that runs, but for the gateway."""
    state = load_state(federation)
    assert state is not None
    return [process for process in state.processes() if process.pid != pid_of(federation, "gateway")]


# --- faults ----------------------------------------------------------------------------------------------------------


def client_app(federation: Deployment, site: str) -> psutil.Process | None:
    """The process in which a site's app runs now: a child of the warm process below the site's SuperExec."""
    with suppress(psutil.Error):
        (warm,) = psutil.Process(pid_of(federation, f"superexec-{site}")).children()
        return next(iter(warm.children()), None)
    return None


def test_a_killed_client_app_costs_its_site_an_answer_and_the_round_goes_on(federation: Deployment) -> None:
    begun = begin(federation, "app-killed", "federation.rounds=2", "federation.retries=1")
    until(seen(begun[1], "round-started"))
    process = until(lambda: client_app(federation, "site-1"))
    process.kill()
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
    simulated = RunFolder(tmp_path / "simulated")
    where = [f"run.dir='{simulated.root}'", f"data.dir='{SAMPLE}'", f"data.cache_dir='{tmp_path / 'cache'}'"]
    run_in_process([*where, *SMALL, "federation.rounds=2", "federation.sites=3"], 3)
    assert largest_difference(run, simulated) < 1e-5


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


def test_what_a_site_raises_reaches_the_server_as_its_class_alone(federation: Deployment) -> None:
    node = federation.site("site-1")
    ward = Path(node.settings().data_dir)
    table = (ward / "ptbxl_database.csv").read_text()
    try:
        (ward / "ptbxl_database.csv").write_text(table.replace("scp_codes", "codes of Jane Doe", 1))
        run = finish(federation, begin(federation, "raises", "federation.rounds=1"))
    finally:
        (ward / "ptbxl_database.csv").write_text(table)
    unnamed = [e for e in read_events(run.events) if e.get("site", "").startswith("node-")]
    assert {e["status"] for e in unnamed} == {"failed: DataError"}
    assert holds(federation.server.root, b"Jane Doe") == []
    for name in ("superlink", "superexec", "gateway"):
        assert b"Jane Doe" not in (federation.logs / f"{name}.log").read_bytes()


def test_a_site_that_cannot_write_sends_nothing(federation: Deployment) -> None:
    log = SiteFolder(federation.site("rest").state).events
    log.rename(log.with_suffix(".kept"))
    log.symlink_to("/dev/full")
    try:
        run = finish(federation, begin(federation, "disk-full", "federation.rounds=1"))
    finally:
        log.unlink()
        log.with_suffix(".kept").rename(log)
    replies = [e for e in read_events(run.events) if e["event"] == "site-replied" and e["site"] == "rest"]
    assert [e["status"] for e in replies] == ["failed: OSError"]
    assert read_events(run.events)[-2]["sites"] == 2


def test_a_node_with_an_unregistered_key_does_not_come_in_and_the_others_go_on(
    federation: Deployment, tmp_path: Path
) -> None:
    node = federation.site("rest")
    kept = node.node_key.read_bytes()
    write_node_key(node.node_key, tmp_path / "new.pub")
    try:
        os.kill(pid_of(federation, "supernode-rest"), signal.SIGTERM)
        until(lambda: connected_nodes(federation.server) == 2, 120.0)
        run = finish(
            federation, begin(federation, "unregistered", "federation.rounds=1", "federation.join_timeout=120")
        )
        assert read_events(run.events)[-2]["sites"] == 2
        assert any(line["site"] == "rest" and line["status"] in (401, 404, 403) for line in audited(federation)[-500:])
    finally:
        node.node_key.write_bytes(kept)
    until(lambda: connected_nodes(federation.server) == 3, 240.0)


@pytest.mark.parametrize(("minutes", "taken"), [(0, True), (10, False), (-10, False)])
def test_a_signature_of_a_clock_that_is_off_is_refused(federation: Deployment, minutes: int, taken: bool) -> None:
    key = load_ssh_private_key(federation.site("rest").node_key.read_bytes(), None)
    public, stamp = public_key_to_bytes(key.public_key()), (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()
    headers = {
        "content-type": "application/protobuf",
        FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(public).decode(),
        TIMESTAMP_HEADER: stamp,
        FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(sign_message(key, stamp.encode())).decode(),
    }
    content = ActivateNodeRequest(public_key=public, heartbeat_interval=30).SerializeToString()
    answer = ask(federation, "rest", "/v1/fleet/activate-node", content=content, headers=headers)
    assert (answer.status_code != 401) == taken


def test_an_oversized_message_is_refused_and_the_next_run_is_whole(federation: Deployment) -> None:
    limit = federation.server.settings().max_body_mib * 2**20
    assert ask(federation, "rest", "/v1/fleet/push-object", content=bytes(limit + 1)).status_code == 413
    assert connected_nodes(federation.server) == 3
