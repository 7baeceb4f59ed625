"""Gateway and sidecar with real TLS, in front of a SuperLink that only echoes."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from client.sidecar import Sidecar, in_words
from client.site_check import WRONG, check_site
from lavq_core.runs.events import read_events
from server.deployment import gateway as module
from server.deployment.certificates import Authority
from server.deployment.folders import Deployment, SiteNodeFolder, write_settings
from server.deployment.gateway import Bucket
from server.deployment.init import Plan, write_deployment

PULL = "/v1/fleet/pull-messages"
SAMPLE = Path(__file__).resolve().parents[2] / "simulations" / "sample"


async def echo(request: Request) -> Response:
    """Say what has come through."""
    body = await request.body()
    headers = {"x-superlink": "yes", "content-type": "application/protobuf"}
    if request.url.path == "/health":
        return JSONResponse({"status": "ok"})
    return Response(body[::-1], 200, headers | {"x-signature": request.headers.get("x-signature", "")})


class Running:
    """An uvicorn server in a thread."""

    def __init__(self, config: uvicorn.Config) -> None:
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10.0)


def free_base() -> int:
    """A port below which a run of ports is free enough for a test."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return min(int(probe.getsockname()[1]), 60000)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    plan = Plan(["st-mary", "st-john", "left"], ["localhost"], free_base(), minimum_patients=1, apps=["d" * 64])
    made = write_deployment(tmp_path_factory.mktemp("d") / "d", plan)
    settings = replace(
        made.server.settings(),
        host="127.0.0.1",
        sites=["st-mary", "st-john"],
        max_body_mib=1,
        requests_per_second=0.5,
        burst=100,
    )
    write_settings(made.server.settings_file, settings)
    return made


@pytest.fixture(scope="module")
def door(deployment: Deployment) -> Iterator[str]:
    """A gateway before a SuperLink."""
    certificate, key = map(str, deployment.server.certificate("loopback"))
    methods = ["GET", "POST"]
    superlink = Starlette(routes=[Route("/{path:path}", echo, methods=methods)])
    port = deployment.server.settings().superlink_port
    back = Running(uvicorn.Config(superlink, port=port, ssl_certfile=certificate, ssl_keyfile=key, log_level="error"))
    front = Running(module.configuration(deployment.server))
    yield f"https://localhost:{deployment.server.settings().port}"
    front.stop()
    back.stop()


def client_of(node: SiteNodeFolder | None, ca: Path) -> httpx.Client:
    context = ssl.create_default_context(cafile=str(ca))
    if node is not None:
        context.load_cert_chain(*node.certificate("site"))
    return httpx.Client(verify=context, trust_env=False)


@pytest.fixture
def st_mary(deployment: Deployment) -> Iterator[httpx.Client]:
    with client_of(deployment.site("st-mary"), deployment.server.ca) as client:
        yield client


def audited(deployment: Deployment) -> list[dict[str, Any]]:
    return [event for file in sorted(deployment.server.audit.iterdir()) for event in read_events(file)]


def test_what_a_supernode_says_goes_through_byte_for_byte(
    door: str, st_mary: httpx.Client, deployment: Deployment
) -> None:
    answer = st_mary.post(door + PULL, content=b"\x00\x01patient", headers={"x-signature": "signed"})
    assert answer.status_code == 200
    assert answer.content == b"tneitap\x01\x00"
    assert answer.headers["x-signature"] == "signed"
    line = audited(deployment)[-1]
    assert (line["site"], line["path"], line["status"]) == ("st-mary", PULL, 200)
    assert (line["bytes_in"], line["bytes_out"]) == (9, 9)
    assert "patient" not in str(line)
    assert st_mary.get(door + "/health").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/control/start-run", 404),
        ("POST", "/v1/runtime/acquire-task", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
        ("POST", "/v1/fleet/../control/start-run", 404),
        ("POST", "/v1/fleet/%2e%2e/control/start-run", 404),
        ("POST", "/v1/fleet/pull-messages/../../control/start-run", 404),
        ("POST", "//v1/fleet/pull-messages", 404),
        ("POST", "/V1/FLEET/pull-messages", 404),
        ("GET", PULL, 405),
        ("POST", "/health", 405),
        ("DELETE", PULL, 405),
    ],
)
def test_nothing_but_the_fleet_api_is_there(
    door: str, deployment: Deployment, method: str, path: str, status: int
) -> None:
    """The path is sent as it is written: an HTTP library would tidy it up first."""
    context = ssl.create_default_context(cafile=str(deployment.server.ca))
    context.load_cert_chain(*deployment.site("st-mary").certificate("site"))
    port = deployment.server.settings().port
    with (
        socket.create_connection(("localhost", port)) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as tls,
    ):
        tls.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while chunk := tls.recv(4096):
            answer += chunk
    assert int(answer.split()[1]) == status
    assert b"x-superlink" not in answer
    line = audited(deployment)[-1]
    assert (line["site"], line["status"]) == ("st-mary", status)
    assert line["reason"]


def test_a_site_that_was_taken_off_the_list_is_locked_out(door: str, deployment: Deployment) -> None:
    with client_of(deployment.site("left"), deployment.server.ca) as left:
        assert left.post(door + PULL).status_code == 421
    assert audited(deployment)[-1]["reason"] == "not a site of this server"


def test_whoever_shows_no_certificate_or_a_wrong_or_an_old_one_does_not_come_in(
    door: str, deployment: Deployment, tmp_path: Path
) -> None:
    before = len(audited(deployment))
    with client_of(None, deployment.server.ca) as nobody, pytest.raises(httpx.TransportError):
        nobody.post(door + PULL)
    for authority, days in ((Authority.create("LAVQ federation"), 30.0), (Authority.load(*deployment.authority), -1.0)):
        node = SiteNodeFolder(tmp_path / str(days))
        authority.issue_client(node.certificate("site"), "st-mary", days)
        with client_of(node, deployment.server.ca) as other, pytest.raises(httpx.TransportError):
            other.post(door + PULL)
    assert len(audited(deployment)) == before


def test_a_body_that_is_too_large_is_not_read(door: str, st_mary: httpx.Client, deployment: Deployment) -> None:
    assert st_mary.post(door + PULL, content=bytes(2**20)).status_code == 200
    assert st_mary.post(door + PULL, content=bytes(2**20 + 1)).status_code == 413
    endless = (bytes(2**16) for _ in range(1000))
    with suppress(httpx.TransportError):  # it stops reading while we are sending
        st_mary.post(door + PULL, content=endless)
    assert audited(deployment)[-1]["reason"] == "the body is too large"


def test_a_site_that_asks_too_often_is_told_to_come_back_and_others_are_not(door: str, deployment: Deployment) -> None:
    john, mary = (client_of(deployment.site(name), deployment.server.ca) for name in ("st-john", "st-mary"))
    with john, mary:
        codes = [john.get(door + "/health").status_code for _ in range(120)]
        assert codes[0] == 200
        assert 503 in codes
        assert mary.get(door + "/health").status_code == 200


def test_a_bucket_fills_at_its_rate_and_never_above_its_burst() -> None:
    bucket = Bucket(rate=2.0, burst=3.0, left=3.0, at=0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(0.6), bucket.take(0.6)] == [True, False]
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]


def test_a_superlink_that_is_down_is_a_reason_to_try_again(deployment: Deployment, tmp_path: Path) -> None:
    settings = replace(deployment.server.settings(), client_certificates=False, superlink_port=1)
    app = module.application(settings, tmp_path, "https://127.0.0.1:1", False)

    async def ask() -> int:
        async with app.router.lifespan_context(app) as state:
            gateway: module.Gateway = state["gateway"]  # type: ignore[index]
            scope = {"type": "http", "method": "POST", "path": PULL, "headers": [], "query_string": b"", "state": {}}
            scope |= {"client": ("127.0.0.1", 1), "server": ("localhost", 1), "scheme": "https"}

            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": b"", "more_body": False}

            return (await gateway.handle(Request(scope, receive))).status_code

    assert asyncio.run(ask()) == 502


# --- the site's end --------------------------------------------------------------------------------------------------


@contextmanager
def sidecar(node: SiteNodeFolder) -> Iterator[None]:
    """Run a sidecar in a thread."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(Sidecar(node).run())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    for _ in range(500):
        with suppress(OSError), socket.create_connection(("127.0.0.1", node.settings().sidecar_port), 1.0):
            break
        time.sleep(0.02)
    yield
    loop.call_soon_threadsafe(task.cancel)
    time.sleep(0.05)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5.0)


def through(node: SiteNodeFolder, path: str = PULL) -> httpx.Response:
    """Ask as a SuperNode would: TLS to the loopback interface, no certificate of its own."""
    trust = ssl.create_default_context(cafile=str(node.certificate("loopback")[0]))
    with httpx.Client(verify=trust, trust_env=False) as client:
        return client.post(f"https://127.0.0.1:{node.settings().sidecar_port}{path}", content=b"abc" * 100_000)


def test_a_supernode_reaches_the_gateway_through_its_sidecar(door: str, deployment: Deployment) -> None:
    node = deployment.site("st-mary")
    with sidecar(node):
        assert through(node).content == (b"abc" * 100_000)[::-1]
        assert through(node, "/v1/control/start-run").status_code == 404


def test_a_sidecar_whose_certificate_is_refused_says_so(
    door: str, deployment: Deployment, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    node = SiteNodeFolder(tmp_path / "st-john")
    shutil.copytree(deployment.site("st-john").root, node.root)
    Authority.load(*deployment.authority).issue_client(node.certificate("site"), "st-john", days=-1.0)
    with sidecar(node), pytest.raises(httpx.TransportError):
        through(node)
    assert "does not accept this site's certificate" in capfd.readouterr().err


def test_a_sidecar_without_a_gateway_closes_the_connection(
    deployment: Deployment, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    node = SiteNodeFolder(tmp_path / "st-john")
    shutil.copytree(deployment.site("st-john").root, node.root)
    write_settings(node.settings_file, replace(node.settings(), gateway="localhost:1"))
    with sidecar(node), pytest.raises(httpx.TransportError) as caught:
        through(node)
    assert not any(word in str(caught.value).lower() for word in ("certificate", "ssl", "tls"))  # Flower would give up
    assert "nobody listens there" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionRefusedError(), "is the gateway running"),
        (TimeoutError(), "no answer"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "the TLS connection failed"),
        (OSError(113, "No route to host"), "No route to host"),
    ],
)
def test_trouble_with_the_gateway_is_said_in_words(error: Exception, said: str) -> None:
    assert said in in_words(error)


# --- lavq site check -------------------------------------------------------------------------------------------------


@pytest.fixture
def site(deployment: Deployment, tmp_path: Path) -> SiteNodeFolder:
    """St Mary's folder, to be spoilt; its data are a few records."""
    node = SiteNodeFolder(tmp_path / "st-mary")
    shutil.copytree(deployment.site("st-mary").root, node.root)
    write_settings(node.settings_file, replace(node.settings(), data_dir=str(few_records(tmp_path))))
    return node


def few_records(folder: Path) -> Path:
    import pandas as pd

    out = folder / "ward"
    out.mkdir()
    table = pd.read_csv(SAMPLE / "ptbxl_database.csv").head(6)
    table.to_csv(out / "ptbxl_database.csv", index=False)
    shutil.copy(SAMPLE / "scp_statements.csv", out)
    (out / "records100").symlink_to(SAMPLE / "records100")
    return out


def wrong(site: SiteNodeFolder) -> dict[str, str]:
    return {finding.topic: finding.text for finding in check_site(site) if finding.level == WRONG}


def test_a_sound_site_is_ready(door: str, site: SiteNodeFolder) -> None:
    assert wrong(site) == {}


def test_everything_that_is_wrong_is_said_at_once(door: str, site: SiteNodeFolder, deployment: Deployment) -> None:
    site.node_key.chmod(0o644)
    site.policy.write_text(site.policy.read_text().replace("minimum_patients = 1", "minimum_patients = 1000"))
    Authority.load(*deployment.authority).issue_client(site.certificate("site"), "st-mary", days=-2.0)
    (site.programs / "flwr-clientapp").chmod(0o644)
    found = wrong(site)
    assert found["secrets"] == "others can read node.key: chmod 600 secrets/*"
    assert "where the policy asks for 1000" in found["data"]
    assert "expired 2.0 days ago: renew it" in found["certificates"]
    assert "does not accept this site's certificate" in found["gateway"]
    assert "lavq deploy units" in found["launcher"]


def test_a_site_without_data_policy_or_gateway_is_told(site: SiteNodeFolder) -> None:
    write_settings(site.settings_file, replace(site.settings(), data_dir="", gateway="localhost:1"))
    site.policy.unlink()
    site.node_key.write_text("no key")
    found = wrong(site)
    assert "data_dir in site.toml is empty" in found["data"]
    assert "cannot be read" in found["policy"]
    assert "no OpenSSH elliptic key" in found["node key"]
    assert "nobody listens there" in found["gateway"]


def test_a_site_that_is_not_on_the_list_is_told(door: str, site: SiteNodeFolder, deployment: Deployment) -> None:
    Authority.load(*deployment.authority).issue_client(site.certificate("site"), "left")
    assert "not on its list" in wrong(site)["gateway"]


@pytest.mark.parametrize(("offset", "side"), [(600.0, "ahead of"), (-600.0, "behind")])
def test_a_clock_that_is_off_by_ten_minutes_is_told(
    door: str, site: SiteNodeFolder, monkeypatch: pytest.MonkeyPatch, offset: float, side: str
) -> None:
    # The site's clock alone: the gateway of this test runs in the same process and tells its own time.
    monkeypatch.setattr(
        "client.site_check.time", SimpleNamespace(time=lambda: time.time() + offset, monotonic=time.monotonic)
    )
    assert f"s {side} the server" in wrong(site)["clock"]
