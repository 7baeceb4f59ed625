"""The site's end: a SuperNode's way to a gateway that asks for a certificate."""

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

import httpx
import pytest

from client.sidecar import Sidecar, in_words
from server.deployment.certificates import Authority
from server.deployment.folders import Deployment, SiteNodeFolder, write_settings
from tests.server.gateway.door import PULL, node_key


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
    with httpx.Client(verify=trust, trust_env=False, headers=node_key(node)) as client:
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
