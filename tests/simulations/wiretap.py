"""A tap between the sites' sidecars and the gateway: it holds both ends' keys, and keeps what passes, decrypted.

It listens with the gateway's certificate and goes on with the site's own, so that both connections are as they would be
without it. Only who has the keys of server and site could do the same.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace

from server.deployment.folders import Deployment, SiteNodeFolder, write_settings
from server.flower_environment import free_port

Kept = list[tuple[float, bytes]]
"""When what passed, in s since 1970, one way of one connection."""


@dataclass
class Passed:
    """What passed one site's tap, up and down: a list for every connection, several of which are open at a time."""

    up: list[Kept] = field(default_factory=list)
    down: list[Kept] = field(default_factory=list)

    def all(self) -> bytes:
        """All of it, one way of one connection after the other."""
        return _joined(self.up + self.down)

    def sent(self) -> bytes:
        """What the site has sent."""
        return _joined(self.up)

    def between(self, begin: float, end: float) -> int:
        """How many bytes passed between two times, in s since 1970."""
        return sum(len(data) for way in self.up + self.down for at, data in way if begin <= at <= end)


def _joined(ways: list[Kept]) -> bytes:
    return b"".join(data for way in ways for _, data in way)


class Wiretap:
    """A tap for every site of a deployment that has not been started yet."""

    def __init__(self, deployment: Deployment) -> None:
        self.passed: dict[str, Passed] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        for node in deployment.sites():
            settings = node.settings()
            self.passed[settings.name] = Passed()
            port, gateway = free_port(), settings.gateway
            write_settings(node.settings_file, replace(settings, gateway=f"localhost:{port}"))
            serving = self._serve(port, gateway, deployment, node, self.passed[settings.name])
            asyncio.run_coroutine_threadsafe(serving, self._loop).result(10.0)

    def close(self) -> None:
        """Pass on nothing more."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)

    async def _serve(
        self, port: int, gateway: str, deployment: Deployment, node: SiteNodeFolder, passed: Passed
    ) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(deployment.server.ca))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(*deployment.server.certificate("gateway"))
        onward = ssl.create_default_context(cafile=str(node.ca))
        onward.load_cert_chain(*node.certificate("site"))
        host, _, onward_port = gateway.rpartition(":")

        async def tapped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                far_reader, far_writer = await asyncio.open_connection(host, int(onward_port), ssl=onward)
            except OSError:
                writer.close()
                return
            up: Kept = []
            down: Kept = []
            passed.up.append(up)
            passed.down.append(down)
            there, back = (
                asyncio.create_task(_copy(reader, far_writer, up)),
                asyncio.create_task(_copy(far_reader, writer, down)),
            )
            await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            for task in (there, back):
                task.cancel()
            for end in (writer, far_writer):
                end.close()

        await asyncio.start_server(tapped, "127.0.0.1", port, ssl=context)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: Kept) -> None:
    with suppress(ConnectionError, ssl.SSLError):
        while chunk := await reader.read(2**16):
            kept.append((time.time(), chunk))
            writer.write(chunk)
            await writer.drain()
