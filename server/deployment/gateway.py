"""The one door from outside to the SuperLink: what a SuperNode needs, and nothing else.

Flower serves its control API, which starts code on every node and asks nobody who they are, on the same port as the
fleet API of its nodes. So the SuperLink listens on the loopback interface alone, and this gateway passes on the calls
of a SuperNode and the health check. It can ask for a client certificate and takes only the sites on its list; it limits
the size of bodies and the rate of requests; and it writes one line a request to an audit log that holds no body.

Certificate and node key belong together. Flower's node signs every request with its key and names the key in a header;
the SuperLink verifies the signature and knows the key, but no certificate. The gateway knows both: a request whose key
is not the one in ``keys/SITE.pub`` of the certificate's own site goes no further. Keys are read afresh every time.

Status codes are chosen for Flower's client, which tries again after 502, 503 and 504 and gives up after others:

====  ================================================================================================================
404   not a call that a SuperNode makes (the control and runtime APIs are not, nor is registering itself)
405   another method than the route's
421   a certificate of ours, but not of a site on the list, or the node key is another's (401 and 403 would say
      something else to Flower's client)
413   the body is too large
502   the SuperLink does not answer
503   too many requests
====  ================================================================================================================
"""

from __future__ import annotations

import binascii
import ssl
import sys
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from lavq_core.errors import LavqError
from lavq_core.runs.events import EventLog
from lavq_core.web.body import bounded_body
from server.deployment.folders import ServerFolder, ServerSettings

FLEET = {
    f"/v1/fleet/{call}" for call in (
        "activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "push-messages", "get-run",
        "get-fab", "pull-object", "push-object", "confirm-message-received",
    )
}  # fmt: skip
"""What a SuperNode with a registered key calls."""

NODE_KEY_HEADER = "flwr-public-key"
"""Flower's header with a node's public key, PEM in base64; named here because Flower takes a second to import."""

_HOP_BY_HOP = {
    "connection", "content-encoding", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding",
    "upgrade",
}  # fmt: skip
_OWN = {"date", "server"}  # of the SuperLink; the gateway says the date itself, and nobody what stands behind it
_TIMEOUT = 60.0  # s, of the SuperLink
_SHOWN = 200  # letters of a path in the audit log


class PeerProtocol(H11Protocol):
    """HTTP that tells the application whose certificate the client has shown: ``request.state.peer``."""

    def connection_made(self, transport: Any) -> None:
        """Read the name that TLS has verified."""
        super().connection_made(transport)
        shown = transport.get_extra_info("ssl_object")
        self.app_state = {**self.app_state, "peer": _common_name(shown.getpeercert() if shown else None)}


@dataclass
class Bucket:
    """A rate limit: ``burst`` requests at once, ``rate`` a second in the long run."""

    rate: float
    burst: float
    left: float
    at: float

    def take(self, now: float) -> bool:
        """Take one request; False if there is none left."""
        self.left = min(self.burst, self.left + (now - self.at) * self.rate)
        self.at = now
        if self.left < 1.0:
            return False
        self.left -= 1.0
        return True


@dataclass
class Gateway:
    """Decides about requests and passes them on.

    Attributes:
        folder: of the server; the gateway reads its nodes' public keys and writes its audit log.
        settings: of the server.
        upstream: client of the SuperLink.
    """

    folder: ServerFolder
    settings: ServerSettings
    upstream: httpx.AsyncClient
    _buckets: dict[str, Bucket] = field(default_factory=dict)

    async def handle(self, request: Request) -> Response:
        """Answer one request, and write its line."""
        began, peer = time.monotonic(), getattr(request.state, "peer", "")
        size, why = 0, self._refusal(request, peer)
        if why is None:
            body = await bounded_body(request, self.settings.max_body_mib * 2**20)
            why, size = (413, "the body is too large") if body is None else None, len(body or b"")
        if why is not None or body is None:
            status, reason = why or (413, "")
            response: Response = PlainTextResponse(reason, status)
        else:
            response = await self._pass_on(request, body)
            reason = "" if response.status_code < 400 else "the SuperLink said so"
        self._log(request, peer, response, size, reason, time.monotonic() - began)
        return response

    def _refusal(self, request: Request, peer: str) -> tuple[int, str] | None:
        path = request.url.path
        wanted = "GET" if path == "/health" else "POST" if path in FLEET else None
        if wanted is None:
            return 404, "no such route here"
        if request.method != wanted:
            return 405, "another method"
        if self.settings.client_certificates and peer not in self.settings.sites:
            return 421, "not a site of this server"
        who = peer or (request.client.host if request.client else "")
        rate, burst, now = self.settings.requests_per_second, float(self.settings.burst), time.monotonic()
        if not self._buckets.setdefault(who, Bucket(rate, burst, burst, now)).take(now):
            return 503, "too many requests"
        possible = [peer] if peer else self.settings.sites
        if path in FLEET and not self._knows(request.headers.get(NODE_KEY_HEADER, ""), possible):
            return 421, "the node key is not this site's"
        return None

    def _knows(self, shown: str, sites: Iterable[str]) -> bool:
        """Tell whether a request's key is that of one of the sites; whether it signed, the SuperLink checks."""
        try:
            key = b64decode(shown, validate=True)
        except binascii.Error:
            return False
        return any(key == node_key(self.folder, site) for site in sites)

    async def _pass_on(self, request: Request, body: bytes) -> Response:
        headers = [(name, value) for name, value in request.headers.items() if name not in _HOP_BY_HOP]
        try:
            answer = await self.upstream.request(request.method, request.url.path, headers=headers, content=body)
        except httpx.HTTPError:
            return PlainTextResponse("the SuperLink does not answer", 502)
        kept = {name: value for name, value in answer.headers.items() if name not in _HOP_BY_HOP | _OWN}
        return Response(answer.content, answer.status_code, kept)

    def _log(self, request: Request, peer: str, response: Response, size: int, reason: str, seconds: float) -> None:
        EventLog(self.folder.audit / f"audit-{datetime.now(UTC):%Y-%m-%d}.jsonl").write(
            "request",
            site=peer,
            address=request.client.host if request.client else "",
            method=request.method,
            path=request.url.path[:_SHOWN],
            status=response.status_code,
            bytes_in=size,
            bytes_out=len(response.body),
            seconds=round(seconds, 4),
            **({"reason": reason} if reason else {}),
        )


def node_key(folder: ServerFolder, site: str) -> bytes | None:
    """Read a site's public node key, in the form in which Flower's nodes send it; None if there is none to read."""
    try:
        key = load_ssh_public_key(folder.public_key(site).read_bytes())
    except (OSError, ValueError):
        return None
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def application(folder: ServerFolder, settings: ServerSettings) -> Starlette:
    """Make the ASGI application of a server's gateway."""
    trust = ssl.create_default_context(cafile=str(folder.certificate("loopback")[0]))
    superlink = f"https://127.0.0.1:{settings.superlink_port}"

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, object]]:
        async with httpx.AsyncClient(base_url=superlink, verify=trust, timeout=_TIMEOUT, trust_env=False) as upstream:
            yield {"gateway": Gateway(folder, settings, upstream)}

    async def handle(request: Request) -> Response:
        gateway: Gateway = request.state.gateway
        return await gateway.handle(request)

    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
    return Starlette(routes=[Route("/{path:path}", handle, methods=methods)], lifespan=lifespan)


def configuration(folder: ServerFolder) -> uvicorn.Config:
    """Return how the gateway of a server is run."""
    settings = folder.settings()
    certificate, key = map(str, folder.certificate("gateway"))
    return uvicorn.Config(
        application(folder, settings),
        host=settings.host,
        port=settings.port,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        ssl_ca_certs=str(folder.ca),
        ssl_cert_reqs=ssl.CERT_REQUIRED if settings.client_certificates else ssl.CERT_NONE,
        http=PeerProtocol,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=256,
        timeout_keep_alive=30,
    )


def _common_name(certificate: dict[str, Any] | None) -> str:
    for part in (certificate or {}).get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return ""


if __name__ == "__main__":
    try:
        uvicorn.Server(configuration(ServerFolder(Path(sys.argv[1])))).run()
    except LavqError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
