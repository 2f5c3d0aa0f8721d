"""What every request passes first: size, content type and shape of the body; and the headers of every answer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from importlib.metadata import version
from typing import Any

from pydantic_core import from_json

from atlas.errors import AtlasError, UsageError
from atlas.http.faults import TooLarge, WrongContentType, document, status_of, unexpected

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

VERSION_HEADER = "circuit-atlas-version"
DEEPEST = 32
BIGGEST = 2**63
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'",
    ),
    (VERSION_HEADER.encode(), version("circuit-atlas").encode()),
]


class Guard:
    """ASGI middleware. JSON of at most `json_bytes` is read and checked before anything parses it further; a circuit file
    of at most `file_bytes` is left to its route, which asks first who sends it."""

    def __init__(self, app: Application, json_bytes: int, file_bytes: int) -> None:
        self.app = app
        self.json_bytes = json_bytes
        self.file_bytes = file_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        try:
            await self.app(scope, await self._checked(scope, receive), send_guarded)
        except AtlasError as error:
            await _answer(error, send_guarded)
        except Exception as error:
            told = unexpected(error)
            if started:
                raise
            await _answer(told, send_guarded, 500)

    async def _checked(self, scope: Scope, receive: Receive) -> Receive:
        """A `receive` that gives a body no larger than allowed, and JSON only."""
        headers = {name.lower(): value for name, value in scope["headers"]}
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        is_file = kind == b"application/octet-stream"
        limit = self.file_bytes if is_file else self.json_bytes
        told = headers.get(b"content-length", b"0")
        if not told.isdigit() or int(told) > limit:
            raise _too_large(limit)
        limited = _limited(receive, limit)
        if is_file:
            return limited
        body = bytearray()
        more = True
        while more:
            message = await limited()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if body:
            if kind != b"application/json":
                raise WrongContentType(
                    "The body is neither JSON nor a circuit file.",
                    "Send it as `Content-Type: application/json`, or a circuit file as `application/octet-stream`.",
                )
            check_json(bytes(body))
        return _again(bytes(body), receive)


def _limited(receive: Receive, limit: int) -> Receive:
    """`receive` until more than `limit` bytes came, then TooLarge."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise _too_large(limit)
        return message

    return counted


def check_json(body: bytes) -> None:
    """Raises UsageError for what is not JSON, and for values that no database takes."""
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise UsageError(f"The body is not JSON: {str(error)[:200]}.", "Send one JSON object.") from None
    _check(value, 0)


def _check(value: Any, depth: int) -> None:
    if depth > DEEPEST:
        raise UsageError(f"The body is nested deeper than {DEEPEST} levels.", "Send a flatter one.")
    if isinstance(value, str):
        if "\x00" in value:
            raise UsageError("The body has a NUL character in a text.", "Leave it out.")
    elif isinstance(value, int):
        if not -BIGGEST <= value < BIGGEST:
            raise UsageError("The body has a whole number of more than 64 bits.", "Send a smaller one.")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check(key, depth + 1)
            _check(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, depth + 1)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body is larger than the {limit} bytes that this server takes.", "Send less at once.")


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body that was read already, then what the server says (a disconnect)."""
    given = False

    async def once() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return once


async def _answer(error: AtlasError, send: Send, status: int | None = None) -> None:
    body = json.dumps(document(error)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status or status_of(error), "headers": headers})
    await send({"type": "http.response.body", "body": body})
