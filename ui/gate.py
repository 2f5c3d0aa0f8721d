"""What every request passes before Streamlit sees it: its host, its origin and, with accounts, its sign-in.

Pages look the person up again at every run; this keeps strangers from the websocket, files and uploads as well.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atlas import authentication
from atlas.api import Atlas
from atlas.errors import AccessDenied, AtlasError
from ui import cookies, sign_in

LOOPBACK = {"localhost", "127.0.0.1", "::1"}
OPEN = {
    "/sign-in",
    "/auth/login",
    "/auth/logout",
    "/_stcore/health",
    "/favicon.png",
    "/healthz",
    "/readyz",
    "/metrics",
    "/mcp",
}
OPEN_BELOW = (
    "/static/",
    "/api/",
)  # Streamlit's own scripts, which show nothing of the atlas; the verbs ask for a token
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "SAMEORIGIN",
    "referrer-policy": "same-origin",
    "content-security-policy": "frame-ancestors 'self'; base-uri 'self'; form-action 'self'; object-src 'none'",
}


class Gate:
    """ASGI middleware. `get` gives the atlas of this server; `provider`: Streamlit signs people in by an identity
    provider, so that pages load without our cookie and ask for themselves."""

    def __init__(self, app: ASGIApp, get: Callable[[], Atlas], accounts: bool, provider: bool = False) -> None:
        self.app, self.get, self.accounts, self.provider = app, get, accounts, provider

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    given.setdefault(name, value)
            await send(message)

        refusal = await self._refusal(scope)
        if refusal is None:
            await self.app(scope, receive, with_headers)
        elif scope["type"] == "websocket":
            await receive()  # the handshake
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refusal(scope, receive, with_headers)

    async def _refusal(self, scope: Scope) -> Response | None:
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host", "")
        if not self.accounts and not _is_loopback(host):
            # a name that somebody else's page made point at this machine
            return PlainTextResponse("These pages answer to this machine only.", 421)
        origin = headers.get("origin")
        if scope["type"] == "websocket" and origin is not None and urlsplit(origin).netloc != host:
            return PlainTextResponse("This request comes from another site.", 403)
        if not self.accounts or self.provider or path in OPEN or path.startswith(OPEN_BELOW):
            return None
        try:
            await run_in_threadpool(self._look_up, HTTPConnection(scope))
        except AccessDenied as error:
            return self._way_in(scope, headers, error)
        except AtlasError as error:
            return PlainTextResponse(str(error), 503)
        return None

    def _look_up(self, connection: HTTPConnection) -> None:
        atlas = self.get()
        value = connection.cookies.get(cookies.name(atlas.settings.https))
        found = cookies.unseal(authentication.cookie_secret(atlas), value)
        if found is None:
            raise AccessDenied("You are not signed in.", "Sign in first.")
        authentication.with_sign_in(atlas, found)

    def _way_in(self, scope: Scope, headers: Headers, error: AccessDenied) -> Response:
        wants_page = scope["type"] == "http" and scope["method"] == "GET" and "text/html" in headers.get("accept", "")
        if not wants_page:
            return PlainTextResponse(str(error), 401)
        query = scope["query_string"].decode("latin-1")
        address = f"{scope['path']}?{query}" if query else scope["path"]
        if headers.get("sec-fetch-site") == "cross-site" and "cookie" not in headers:
            return HTMLResponse(sign_in.going_on(sign_in.own_address(address)), headers=sign_in.HEADERS)
        return RedirectResponse(sign_in.to_sign_in(address), 303, headers={"cache-control": "no-store"})


def _is_loopback(host: str) -> bool:
    try:
        return urlsplit(f"//{host}").hostname in LOOPBACK
    except ValueError:
        return False
