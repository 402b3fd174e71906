"""What stands before every route: who may ask, from where, and how much a request may hold."""

from __future__ import annotations

import asyncio
import hmac
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request

from smf_jax.serving.errors import RequestError

_LOCAL = ("localhost", "127.0.0.1", "::1")
_SECONDS = 30.0  # in which the body of a request has to arrive
_DRAINED = 2**26  # bytes of a body that is too large which are read before it is refused


def check_sender(request: Request, token: str, host: str) -> None:
    """Refuses a request that a page of another site has made, or that lacks the token.

    On a loopback address a browser could be brought to ask for a stranger: the name it asks by
    (``Host``) and the page it asks from (``Origin``) must then be this server's own.
    """
    asked = _host_of(f"//{request.headers.get('host', '')}")
    if not token and asked not in (*_LOCAL, host):
        raise RequestError(403, f"this server answers to localhost, not to {asked[:80]!r}")
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise RequestError(403, f"a page of {origin[:80]!r} may not ask here")
    if token:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode(), token.encode())
        if scheme.lower() != "bearer" or not same:
            told = {"WWW-Authenticate": "Bearer"}
            raise RequestError(
                401, "the token is missing or wrong: send Authorization: Bearer TOKEN", headers=told
            )


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


async def read_body(request: Request, most: int) -> bytes:
    """The body of a JSON request, of ``most`` bytes; a `RequestError` if it is larger or late."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError(415, f"Content-Type is {kind[:80]!r}; expected application/json")
    try:
        async with asyncio.timeout(_SECONDS):
            return await _read(request, most)
    except TimeoutError:
        raise RequestError(408, f"the body did not arrive in {_SECONDS:.0f} seconds") from None
    except ClientDisconnect:
        raise RequestError(499, "the client has gone") from None


async def _read(request: Request, most: int) -> bytes:
    told = request.headers.get("content-length", "0")
    parts: list[bytes] = []
    seen, is_large = 0, told.isdecimal() and int(told[:20]) > most
    async for part in request.stream():
        seen += len(part)
        if seen > most:
            is_large = True
            parts.clear()
        if is_large and seen > _DRAINED:
            break
        if not is_large:
            parts.append(part)
    if is_large:  # the client has sent it and now listens
        raise RequestError(413, f"the body has more than {most} bytes, the most that is read here")
    return b"".join(parts)


async def until_gone(request: Request) -> None:
    """Returns once the client has closed its connection; its body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
