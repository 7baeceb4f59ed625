"""A SuperNode's way to a gateway that asks for a client certificate, which Flower's client cannot show.

A tunnel: the SuperNode connects to the loopback interface, with TLS as it insists on for signed requests; what it says
goes on to the gateway in a second TLS connection that shows the site's certificate, byte for byte. Nothing is read or
kept. Where the gateway cannot be reached, the SuperNode's connection is closed, which it takes for a network that is
down and tries again; why is said here, once until it changes. Certificates are read afresh for every connection, so
that renewed ones need no restart.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lavq_core.errors import LavqError
from server.deployment.folders import SiteNodeFolder

_CHUNK = 2**16  # bytes
_PATIENCE = 10.0  # s, to connect to the gateway

REFUSED = (
    "it closes the connection without a word: it does not accept this site's certificate, which may have expired or "
    "come from another CA (lavq site check says more)"
)
"""With TLS 1.3 a server judges a client's certificate after the client takes the connection for made."""


class Sidecar:
    """The tunnel of one site."""

    def __init__(self, folder: SiteNodeFolder) -> None:
        self._folder, self._settings = folder, folder.settings()
        self._trouble = ""

    async def run(self) -> None:
        """Serve until cancelled."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self._folder.certificate("loopback"))
        server = await asyncio.start_server(self._tunnel, "127.0.0.1", self._settings.sidecar_port, ssl=context)
        async with server:
            await server.serve_forever()

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.wait_for(connect(self._folder), _PATIENCE)
        except (OSError, TimeoutError) as error:
            self._say(in_words(error))
            writer.close()
            return
        there, back = (
            asyncio.create_task(_copy(reader, far_writer)),
            asyncio.create_task(_copy(far_reader, writer, lambda: self._say(""))),
        )
        await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        for task in (there, back):
            task.cancel()
        for end in (writer, far_writer):
            end.close()
        if back.done() and not back.cancelled() and not back.result():
            self._say(REFUSED)

    def _say(self, trouble: str) -> None:
        if trouble != self._trouble:
            sys.stderr.write(f"gateway {self._settings.gateway}: {trouble or 'connected'}\n")
            sys.stderr.flush()
            self._trouble = trouble


async def connect(folder: SiteNodeFolder) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the gateway, showing the site's certificate.

    Raises:
        OSError: nobody there, or one of the two certificates is refused (``ssl.SSLError``).
    """
    host, _, port = folder.settings().gateway.rpartition(":")
    context = ssl.create_default_context(cafile=str(folder.ca))
    context.load_cert_chain(*folder.certificate("site"))
    return await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)


def in_words(error: Exception) -> str:
    """Say what a failed connection means and what to do."""
    text = str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        if "expired" in text:
            return "its certificate has expired: tell the server's operator"
        if "not yet valid" in text:
            return "its certificate is not valid yet: compare the clocks of both machines"
        if "self-signed" in text or "unable to get" in text:
            return "its certificate comes from another CA than certificates/ca.crt: ask the operator for the right one"
        return f"its certificate is not that of this host ({error.verify_message}): check the address in site.toml"
    if isinstance(error, ssl.SSLError):
        return f"the TLS connection failed ({text})"
    if isinstance(error, TimeoutError):
        return f"no answer within {_PATIENCE:g} s: check the address in site.toml and the firewall"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there: is the gateway running?"
    return f"it cannot be reached ({getattr(error, 'strerror', None) or type(error).__name__})"


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, at_first: Callable[[], None] = lambda: None
) -> int:
    """Copy until the end, and call ``at_first`` when the first bytes come; returns how many bytes."""
    copied = 0
    with suppress(ConnectionError, ssl.SSLError):
        while chunk := await reader.read(_CHUNK):
            if not copied:
                at_first()
            copied += len(chunk)
            writer.write(chunk)
            await writer.drain()
    return copied


if __name__ == "__main__":
    try:
        asyncio.run(Sidecar(SiteNodeFolder(Path(sys.argv[1]))).run())
    except LavqError as problem:
        sys.stderr.write(f"{problem}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(0)
