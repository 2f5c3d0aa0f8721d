"""The server of the pages: Streamlit with our routes around it. `ui.run.launch` runs this file with `streamlit run`."""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec

import streamlit as st
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount

from atlas.settings import load_settings
from ui import auth, sign_in
from ui.gate import Gate
from ui.shared import server_atlas


def _routes() -> list[BaseRoute]:
    """With accounts: sign-in, the verbs below /api, health and metrics. A laptop has none of them."""
    if not load_settings().accounts:
        return []
    from atlas.health import ops_routes

    routes: list[BaseRoute] = [*sign_in.routes(server_atlas), *ops_routes(server_atlas())]
    if find_spec("fastapi"):
        from atlas.http.app import make_app

        routes.append(Mount("/api", make_app(server_atlas())))
    return routes


app = st.App(
    str(files("ui.app") / "main.py"),
    routes=_routes(),
    middleware=[
        Middleware(
            Gate,
            get=server_atlas,
            accounts=load_settings().accounts,
            provider=load_settings().accounts and auth.has_provider(),
        )
    ],
)
