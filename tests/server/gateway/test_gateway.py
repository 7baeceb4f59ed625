"""Who comes through the gateway, with what, and what it writes about it."""

from __future__ import annotations

import asyncio
import base64
import shutil
import socket
import ssl
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.superlink.main import create_app
from starlette.requests import Request

from server.deployment import gateway as module
from server.deployment.certificates import Authority, write_node_key
from server.deployment.folders import Deployment, ServerFolder, ServerSettings, SiteNodeFolder
from server.deployment.gateway import Bucket
from tests.server.gateway.door import PULL, audited, client_of, node_key


def test_what_a_supernode_says_goes_through_byte_for_byte(
    door: str, st_mary: httpx.Client, deployment: Deployment
) -> None:
    answer = st_mary.post(door + PULL, content=b"\x00\x01patient", headers={"x-signature": "signed"})
    assert answer.status_code == 200
    assert answer.content == b"tneitap\x01\x00"
    assert answer.headers["x-signature"] == "signed"
    assert len(answer.headers.get_list("date")) == 1
    assert "server" not in answer.headers  # what stands behind the gateway is nobody's business
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


def test_a_certificate_comes_in_with_its_own_sites_node_key_alone(
    door: str, st_mary: httpx.Client, deployment: Deployment
) -> None:
    """A site that has got hold of another's node key cannot speak for it; nor does its own certificate alone do."""
    for headers in (
        node_key(deployment.site("st-john")),
        {FLEET_HTTP_PUBLIC_KEY_HEADER: ""},
        {FLEET_HTTP_PUBLIC_KEY_HEADER: "no base64"},
        {FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(b"no key").decode()},
    ):
        answer = st_mary.post(door + PULL, content=b"x", headers=headers)
        assert (answer.status_code, answer.text) == (421, "the node key is not this site's")
        assert "x-superlink" not in answer.headers
    assert (audited(deployment)[-1]["site"], audited(deployment)[-1]["reason"]) == (
        "st-mary",
        "the node key is not this site's",
    )
    assert st_mary.post(door + PULL).status_code == 200
    assert st_mary.get(door + "/health", headers={FLEET_HTTP_PUBLIC_KEY_HEADER: ""}).status_code == 200


def test_a_sites_new_key_holds_as_soon_as_it_lies_in_keys(
    door: str, st_mary: httpx.Client, deployment: Deployment, tmp_path: Path
) -> None:
    public = deployment.server.public_key("st-mary")
    before = public.read_bytes()
    try:
        write_node_key(tmp_path / "new.key", public)
        assert st_mary.post(door + PULL).status_code == 421
        public.unlink()
        assert st_mary.post(door + PULL).status_code == 421
    finally:
        public.write_bytes(before)
    assert st_mary.post(door + PULL).status_code == 200


def test_of_all_that_flower_serves_an_outsider_reaches_what_a_supernode_calls(
    door: str, st_mary: httpx.Client, deployment: Deployment
) -> None:
    """A scan of every route of the SuperLink's own application, with a certificate and a node key, and without."""
    superlink = create_app()
    served = {
        (method, route.route.path)
        for route in iter_route_contexts(superlink.routes)
        for method in getattr(route.route, "methods", None) or ()
    }
    assert len(served) > 60
    answered = {(method, path): st_mary.request(method, door + path).status_code for method, path in served}
    passed = {path for (_, path), status in answered.items() if status == 200}
    assert passed == {*module.FLEET, "/health"}
    assert {status for (_, path), status in answered.items() if path not in passed} == {404}
    own = {"/v1/fleet/register-node", "/v1/fleet/unregister-node"}  # a node whose key is registered calls neither
    assert {path for _, path in served if path.startswith("/v1/fleet/")} == module.FLEET | own
    with client_of(None, deployment) as nobody:
        for path in ("/", "/health", PULL, "/v1/control/start-run"):
            with pytest.raises(httpx.TransportError):
                nobody.post(door + path)


def test_a_site_that_was_taken_off_the_list_is_locked_out(door: str, deployment: Deployment) -> None:
    with client_of(deployment.site("left"), deployment) as left:
        assert left.post(door + PULL).status_code == 421
    assert audited(deployment)[-1]["reason"] == "not a site of this server"


def test_whoever_shows_no_certificate_or_a_wrong_or_an_old_one_does_not_come_in(
    door: str, deployment: Deployment, tmp_path: Path
) -> None:
    before = len(audited(deployment))
    with client_of(None, deployment) as nobody, pytest.raises(httpx.TransportError):
        nobody.post(door + PULL)
    for authority, days in ((Authority.create("LAVQ federation"), 30.0), (Authority.load(*deployment.authority), -1.0)):
        node = SiteNodeFolder(tmp_path / str(days))
        authority.issue_client(node.certificate("site"), "st-mary", days)
        shutil.copy(deployment.site("st-mary").node_key, node.node_key)
        with client_of(node, deployment) as other, pytest.raises(httpx.TransportError):
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
    john, mary = (client_of(deployment.site(name), deployment) for name in ("st-john", "st-mary"))
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
    folder = ServerFolder(tmp_path)
    shutil.copytree(deployment.server.root / "keys", folder.root / "keys")
    shutil.copytree(deployment.server.root / "certificates", folder.root / "certificates")
    assert asked_without_certificate(folder, settings, node_key(deployment.site("st-mary"))) == 502


def test_where_no_certificate_is_asked_for_the_node_key_alone_must_be_a_listed_sites(
    deployment: Deployment, tmp_path: Path
) -> None:
    settings = replace(deployment.server.settings(), client_certificates=False, superlink_port=1)
    folder = ServerFolder(tmp_path)
    shutil.copytree(deployment.server.root / "keys", folder.root / "keys")
    shutil.copytree(deployment.server.root / "certificates", folder.root / "certificates")
    assert asked_without_certificate(folder, settings, node_key(deployment.site("st-john"))) == 502  # let through
    assert asked_without_certificate(folder, settings, node_key(deployment.site("left"))) == 421
    assert asked_without_certificate(folder, settings, {}) == 421


def asked_without_certificate(folder: ServerFolder, settings: ServerSettings, headers: dict[str, str]) -> int:
    """The status of a node's request to a gateway whose SuperLink is down."""
    app = module.application(folder, settings)

    async def ask() -> int:
        async with app.router.lifespan_context(app) as state:
            gateway: module.Gateway = state["gateway"]  # type: ignore[index]
            sent = [(name.encode(), value.encode()) for name, value in headers.items()]
            scope = {"type": "http", "method": "POST", "path": PULL, "headers": sent, "query_string": b"", "state": {}}
            scope |= {"client": ("127.0.0.1", 1), "server": ("localhost", 1), "scheme": "https"}

            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": b"", "more_body": False}

            return (await gateway.handle(Request(scope, receive))).status_code

    return asyncio.run(ask())
