"""A whole deployment with real processes: server, gateway and three sites on the loopback interface, with mTLS.

Between the sites and the gateway lies a tap that has the keys of both, and keeps what passes.
"""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.cli.build import build_fab_from_disk
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from lavq_core.models.stored import load_shared_model
from lavq_core.runs.artefact import load_artefact
from lavq_core.runs.events import read_events
from lavq_core.runs.layout import RunFolder, SiteFolder
from server.deployment.folders import Deployment
from server.deployment.submission import CHECKOUT, connected_nodes
from tests.server.gateway.door import PULL, node_key
from tests.simulations.deployed import (
    SMALL,
    ask,
    audited,
    begin,
    contents,
    finish,
    holds,
    largest_difference,
    listening,
    made,
    running,
    simulated,
)
from tests.simulations.patient_traces import named, standing, stretches, texts_of
from tests.simulations.wiretap import Wiretap

pytestmark = pytest.mark.slow

# Few steps of the default detector. Its messages are of 0.35 MB: what Flower adds to each weighs more on small ones.
DEFAULT = [setting for setting in SMALL if not setting.startswith("detector.")]
DEFAULT += ["detector_training.steps=2", "detector_training.epochs=0.2"]
WIRE = 0.05  # share of a round's content that HTTP, signatures and questions without an answer may add


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    return made(tmp_path_factory.mktemp("federation"))


@pytest.fixture(scope="module")
def tap(stopped: Deployment) -> Iterator[Wiretap]:
    wiretap = Wiretap(stopped)
    yield wiretap
    wiretap.close()


@pytest.fixture(scope="module")
def federation(stopped: Deployment, tap: Wiretap) -> Iterator[Deployment]:
    with running(stopped) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def both(federation: Deployment, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, RunFolder]:
    """The same training, deployed and in one process."""
    began = begin(federation, "first", "federation.rounds=1", settings=DEFAULT)
    same = simulated(tmp_path_factory.mktemp("simulated"), 1, DEFAULT)
    return finish(federation, began), same


def test_hospitals_train_to_the_simulations_very_result(
    federation: Deployment, both: tuple[RunFolder, RunFolder]
) -> None:
    deployed, same = both
    assert largest_difference(deployed, same) < 1e-5
    assert contents(deployed) == contents(same)
    for node in federation.sites():
        kept = SiteFolder(node.state)
        assert load_shared_model(kept.accepted).classes
        assert kept.predictions.is_file()


def test_a_rounds_bytes_on_the_wire_are_those_of_the_simulation(
    tap: Wiretap, both: tuple[RunFolder, RunFolder]
) -> None:
    deployed, same = both
    times = {
        event["event"]: datetime.fromisoformat(event["time"]).timestamp() for event in read_events(deployed.events)
    }
    for site, passed in tap.passed.items():
        content = sum(down + up for _, name, _, down, up in contents(same) if name == site)
        wire = passed.between(times["round-started"], times["round-finished"])
        assert content < wire < (1 + WIRE) * content


def test_nothing_of_a_patient_crosses_the_wire(
    federation: Deployment, tap: Wiretap, both: tuple[RunFolder, RunFolder], tmp_path: Path
) -> None:
    deployed, _ = both
    bundle = build_fab_from_disk(CHECKOUT)
    stored = b"".join(path.read_bytes() for path in federation.server.root.rglob("*") if path.is_file())
    weights = max(load_artefact(deployed.model)[0]["detector"].values(), key=lambda value: value.numel())
    for node in federation.sites():
        passed, data = tap.passed[node.settings().name], Path(node.settings().data_dir)
        everything = passed.all()
        assert bundle in everything
        everything = everything.replace(bundle, b"")  # the app, with the sizes of its files: five digits stand in it
        assert weights.numpy().tobytes() in everything  # what crosses is read as it is
        assert named(everything, data) == set()
        assert stretches(passed.sent(), data, tmp_path / "cache") == 0  # only a site can tell of its ECGs
        assert str(node.root).encode() not in everything
        unpublished = {text for text in texts_of(data) if len(text) > 15 and text not in bundle}
        assert standing(stored, unpublished) == set()


def test_an_outsider_finds_one_port_and_behind_it_nothing_without_a_certificate_and_no_control_with_one(
    federation: Deployment, both: tuple[RunFolder, RunFolder]
) -> None:
    """127.0.0.2 is another address of this machine: what listens on 127.0.0.1 alone is not there."""
    ports, gateway = listening(federation), federation.server.settings().port
    assert len(ports) == 1 + 1 + 2 * 3  # gateway, SuperLink, and a sidecar and a SuperNode a site
    found = set()
    for port in ports:
        with suppress(OSError), socket.create_connection(("127.0.0.2", port), 2.0):
            found.add(port)
    assert found == {gateway}
    for path in ("/v1/control/list-nodes", "/v1/control/start-run", "/v1/runtime/acquire-task", "/docs"):
        assert ask(federation, "rest", path, node_key(federation.site("rest"))).status_code == 404
        lines = {(one["site"], one["path"], one["status"], one.get("reason")) for one in audited(federation)}
        assert ("rest", path, 404, "no such route here") in lines
    assert ask(federation, "rest", PULL, {}).status_code == 421  # a certificate without its node key
    assert {line["path"].rpartition("/")[0] for line in audited(federation) if line["status"] == 200} == {"/v1/fleet"}


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
    answer = ask(federation, "rest", "/v1/fleet/activate-node", headers, content)
    assert (answer.status_code != 401) == taken


def test_an_oversized_message_is_refused_and_the_next_run_is_whole(federation: Deployment) -> None:
    key, limit = node_key(federation.site("rest")), federation.server.settings().max_body_mib * 2**20
    assert ask(federation, "rest", "/v1/fleet/push-object", key, bytes(limit + 1)).status_code == 413
    assert connected_nodes(federation.server) == 3


def test_sites_that_fail_are_named_by_their_errors_class_and_the_others_go_on(
    federation: Deployment, tap: Wiretap
) -> None:
    """One site's table names a patient where a column's name should be; another one's disk is full."""
    table = Path(federation.site("site-1").settings().data_dir) / "ptbxl_database.csv"
    log, kept = SiteFolder(federation.site("rest").state).events, table.read_text()
    log.rename(log.with_suffix(".kept"))
    try:
        table.write_text(kept.replace("scp_codes", "codes of Jane Doe", 1))
        log.symlink_to("/dev/full")
        settings = ["federation.rounds=1", "federation.min_sites=1", "federation.retries=0"]
        run = finish(federation, begin(federation, "fails", *settings))
    finally:
        table.write_text(kept)
        log.unlink()
        log.with_suffix(".kept").rename(log)
    events = read_events(run.events)
    assert {e["status"] for e in events if e.get("site", "").startswith("node-")} == {"failed: DataError"}
    replies = {e["site"]: e["status"] for e in events if e["event"] == "site-replied" and e["round"] == 1}
    assert replies == {"site-0": "ok", "rest": "failed: OSError"}
    assert [e["sites"] for e in events if e["event"] == "round-finished"] == [1]
    assert holds(federation.server.root, b"Jane Doe") == []
    for name in ("superlink", "superexec", "gateway"):
        assert b"Jane Doe" not in (federation.logs / f"{name}.log").read_bytes()
    assert b"Jane Doe" not in tap.passed["site-1"].all()
