"""A SuperLink that only echoes, clients as sites have them, and what the gateway wrote about them."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
import time
from typing import Any

import httpx
import uvicorn
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lavq_core.runs.events import read_events
from server.deployment.folders import Deployment, SiteNodeFolder
from server.deployment.gateway import NODE_KEY_HEADER

PULL = "/v1/fleet/pull-messages"


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


def node_key(node: SiteNodeFolder) -> dict[str, str]:
    """The header in which Flower's node names its key."""
    key = load_ssh_private_key(node.node_key.read_bytes(), None)
    return {NODE_KEY_HEADER: base64.b64encode(public_key_to_bytes(key.public_key())).decode()}


def client_of(node: SiteNodeFolder | None, deployment: Deployment) -> httpx.Client:
    """A client with a site's certificate and node key; None: with neither."""
    context = ssl.create_default_context(cafile=str(deployment.server.ca))
    if node is None:
        return httpx.Client(verify=context, trust_env=False)
    context.load_cert_chain(*node.certificate("site"))
    return httpx.Client(verify=context, trust_env=False, headers=node_key(node))


def audited(deployment: Deployment) -> list[dict[str, Any]]:
    return [event for file in sorted(deployment.server.audit.iterdir()) for event in read_events(file)]
