"""The body of a request, up to a length."""

from __future__ import annotations

from starlette.requests import Request


async def bounded_body(request: Request, most: int) -> bytes | None:
    """Read a body of at most so many bytes; None for a longer one, which is not read to its end."""
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > most:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            return None
    return bytes(body)
