"""The server of the pages: Streamlit with our routes around it. `ui.run.launch` runs this file with `streamlit run`."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from importlib.resources import files
from importlib.util import find_spec

import streamlit as st
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import BaseRoute

from atlas import authentication, logs, memory
from atlas.api import Atlas
from atlas.settings import load_settings
from ui import auth, cookies, sign_in
from ui.gate import Gate
from ui.shared import server_atlas


def _signed_in(request: Request) -> Atlas | None:
    """The atlas of whoever a request's cookie names; the verbs look at its origin as well."""
    atlas = server_atlas()
    found = cookies.unseal(authentication.cookie_secret(atlas), request.cookies.get(cookies.name(atlas.settings.https)))
    return authentication.with_sign_in(atlas, found) if found is not None else None


def _served() -> tuple[list[BaseRoute], AbstractAsyncContextManager[None]]:
    """With accounts: sign-in, the verbs below /api, MCP, health and metrics, and what must be entered while they are
    served. A laptop has none of them."""
    if not load_settings().accounts:
        return [], nullcontext()
    routes: list[BaseRoute] = [*sign_in.routes(server_atlas)]
    if not find_spec("fastapi"):
        from atlas.health import ops_routes

        return [*routes, *ops_routes(server_atlas())], nullcontext()
    from atlas.http.serving import parts

    made = parts(server_atlas(), _signed_in)
    return [*routes, *made.routes], made.running()


memory.limit_fragmentation()
if load_settings().accounts:
    logs.setup_from(load_settings(), "info")
_routes, _running = _served()
app = st.App(
    str(files("ui.app") / "main.py"),
    routes=_routes,
    lifespan=lambda app: _running,
    middleware=[
        Middleware(logs.RequestLog),
        Middleware(
            Gate,
            get=server_atlas,
            accounts=load_settings().accounts,
            provider=load_settings().accounts and auth.has_provider(),
        ),
    ],
)
