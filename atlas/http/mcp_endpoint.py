"""MCP over streamable HTTP at /mcp, for the same access tokens as the verbs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from mcp.server.transport_security import TransportSecuritySettings
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.routing import Route

from atlas import people
from atlas.api import Atlas
from atlas.errors import AccessDenied
from atlas.http.faults import document
from atlas.http.guard import Guard, Receive, Scope, Send
from atlas.mcp import make_server

PATH = "/mcp"
MOST_BYTES = 2**20
KEY = "atlas.caller"


def mcp_route(atlas: Atlas) -> tuple[Route, Callable[[], contextlib.AbstractAsyncContextManager[None]]]:
    """The route, and what must be entered while the server runs."""
    server = make_server(lambda context: context.request_context.request.scope[KEY])  # type: ignore[union-attr]
    app = server.streamable_http_app(
        streamable_http_path=PATH,
        stateless_http=True,
        json_response=True,
        # whoever has a token may come by any name of this server; without one nothing is answered
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )

    async def signed_in(scope: Scope, receive: Receive, send: Send) -> None:
        kind, _, secret = Headers(scope=scope).get("authorization", "").partition(" ")
        try:
            if kind.lower() != "bearer" or not secret.strip():
                raise AccessDenied("This needs an access token.", "Send `Authorization: Bearer TOKEN`.")
            caller = await run_in_threadpool(people.with_token, atlas, secret.strip())
        except AccessDenied as error:
            answer = JSONResponse(document(error), 401, {"www-authenticate": "Bearer"})
            await answer(scope, receive, send)  # type: ignore[arg-type]
            return
        await app({**scope, KEY: caller}, receive, send)  # type: ignore[arg-type]

    guard = Guard(signed_in, json_bytes=MOST_BYTES, file_bytes=0)

    @contextlib.asynccontextmanager
    async def running() -> AsyncIterator[None]:
        async with server.session_manager.run():
            yield

    return Route(PATH, _Endpoint(guard)), running


class _Endpoint:
    """An ASGI application as Starlette's Route wants it: an object, not a function."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
