"""A local page and its guard: served on 127.0.0.1 only, and deaf to other web pages.

What could reach a local server, and what keeps it out:

- another machine: the socket is bound to 127.0.0.1;
- another user of this machine: every answer below ``/api/`` asks for a token that only the printed address holds. It
  stands behind the ``#`` of the address, so it is in no request line, no log and no ``Referer`` (a browser that is
  started with it shows it in the list of processes: ``--no-browser`` starts none);
- another web page in the same browser: it does not know the token, and the header that carries it makes the browser ask
  first, which is never granted;
- a name that is pointed at 127.0.0.1 (DNS rebinding): the ``Host`` header must be this server's own;
- the page itself: a content security policy lets it load and ask nothing but this server.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
import socket
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lavq_core.errors import ConfigError, LavqError
from lavq_core.web.body import bounded_body

HOST = "127.0.0.1"
TOKEN_HEADER = "x-lavq-token"
_NAMES = (HOST, "localhost")
_SHARED = Path(__file__).parent / "shared"
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "style-src-attr 'unsafe-inline'; connect-src 'self'; img-src data:; "  # pictures set styles on their own elements
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}

_log = logging.getLogger(__name__)

Answer = Callable[[dict[str, Any]], Any]
"""From a JSON body to something JSON-serialisable, or a whole response."""


def new_token() -> str:
    """Return a fresh secret for one server's life."""
    return secrets.token_urlsafe(24)


def local_app(page: Path, answers: dict[str, tuple[Answer, int]], token: str) -> Starlette:
    """Build the application.

    Args:
        page: folder of ``index.html`` and what it loads; ``/shared/`` holds what all pages share.
        answers: by path below ``/api/``: the function, called in a thread, and the most bytes that it is sent.
        token: that every call below ``/api/`` must bring in the header ``x-lavq-token``.
    """
    routes: list[BaseRoute] = [
        Route(f"/api/{name}", _endpoint(answer, most), methods=["POST"]) for name, (answer, most) in answers.items()
    ]
    routes += [Mount("/shared", StaticFiles(directory=_SHARED)), Mount("/", StaticFiles(directory=page, html=True))]
    app = Starlette(routes=routes)
    app.add_middleware(_Guard, token=token)
    return app


def serve(app: Starlette, port: int, token: str, say: Callable[[str], None], browse: bool) -> None:
    """Serve until the user presses Ctrl-C.

    Args:
        app: from ``local_app``.
        port: 0 for any free one.
        token: the app's.
        say: takes the address as soon as it answers.
        browse: open it in the user's browser too.

    Raises:
        ConfigError: the port is taken.
    """
    listener = _listen(port)
    address = f"http://{HOST}:{listener.getsockname()[1]}/#{token}"
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", ws="none"))
    say(address)
    if browse:
        webbrowser.open(address)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn has shut down in order, and passes it on
        return
    finally:
        listener.close()


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()
    except (OSError, OverflowError):
        listener.close()
        raise ConfigError(f"port {port} cannot be used on {HOST}: choose another one with --port") from None
    return listener


def _endpoint(answer: Answer, most: int) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        try:
            body = await _json_body(request, most)
            found = await run_in_threadpool(answer, body)
        except LavqError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        except Exception as error:
            _log.exception("a request failed")
            line = f"this is a fault of the program ({type(error).__name__}): the terminal shows where"
            return JSONResponse({"error": line}, status_code=500)
        return found if isinstance(found, Response) else JSONResponse(found)

    return endpoint


async def _json_body(request: Request, most: int) -> dict[str, Any]:
    """Read an object of at most so many bytes."""
    whole = await bounded_body(request, most)
    if whole is None:
        raise ConfigError(f"more than {most / 1e6:g} MB were sent: one ECG of 10 s is smaller than that")
    try:
        value = json.loads(whole or b"{}")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ConfigError("the page sent something that cannot be read: load it again")
    return value


class _Guard:
    """Let in what this page itself asks, and nothing else."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # no websockets, no lifespan

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        reason = self._refusal(scope["path"], Headers(scope=scope))
        answer: ASGIApp = JSONResponse({"error": reason}, status_code=403) if reason else self.app
        await answer(scope, receive, send_guarded)

    def _refusal(self, path: str, headers: Headers) -> str:
        if headers.get("host", "").partition(":")[0] not in _NAMES:
            return f"this server answers only as {HOST}"
        given = headers.get(TOKEN_HEADER, "")
        if path.startswith("/api/") and not secrets.compare_digest(given.encode(), self.token.encode()):
            return "this address lacks the key of the running command: open the one that it printed"
        return ""


def numbers(names: Sequence[str], body: dict[str, Any]) -> dict[str, float]:
    """Take numbers out of a body.

    Raises:
        ConfigError: one of them is there and is no finite number.
    """
    found = {}
    for name in names:
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ConfigError(f"{name} must be a number")
        found[name] = value
    return found
