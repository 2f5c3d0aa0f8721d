"""The server of the API alone, without pages: uvicorn on a socket that is bound before anything is said."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount

from atlas import logs, memory
from atlas.api import Atlas
from atlas.errors import UsageError
from atlas.health import ops_routes
from atlas.http.app import SignedIn, make_app
from atlas.http.mcp_endpoint import mcp_route
from atlas.logs import RequestLog

BACKLOG = 512
KEEP_ALIVE_SECONDS = (
    75  # longer than what proxies in front keep theirs, so that none sends into one that is being closed
)
GRACE_SECONDS = 10  # what still runs then is cut off


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes a free one. Raises UsageError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(
            f"{host!r} is no address of this machine: {error.strerror}.", "Choose another --host."
        ) from error
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise UsageError(
            f"Port {port} of {host} cannot be used: {(error.strerror or str(error)).lower()}.",
            "Choose another with --port, or --host.",
        ) from error
    return listening


def url_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@dataclass(frozen=True)
class Parts:
    """What a server of this atlas answers beside its pages. `running` must be entered while it runs."""

    routes: list[BaseRoute]
    running: Callable[[], contextlib.AbstractAsyncContextManager[None]]


def parts(atlas: Atlas, signed_in: SignedIn | None = None) -> Parts:
    """The verbs below /api, MCP at /mcp, health and metrics. `signed_in`: see `make_app`."""
    mcp, running = mcp_route(atlas)
    return Parts([Mount("/api", make_app(atlas, signed_in)), mcp, *ops_routes(atlas)], running)


def make_site(atlas: Atlas) -> Starlette:
    """What `atlas serve --no-ui` answers."""
    made = parts(atlas)
    return Starlette(routes=made.routes, lifespan=lambda app: made.running())


def serve(atlas: Atlas, listening: socket.socket, behind_tls: bool) -> None:
    """Answer until Ctrl-C or SIGTERM. `behind_tls`: believe the proxy in front about the scheme and who asks."""
    memory.limit_fragmentation()
    logs.setup_from(atlas.settings, "info")
    config = uvicorn.Config(
        RequestLog(make_site(atlas)),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        proxy_headers=behind_tls,
        forwarded_allow_ips="*" if behind_tls else None,
    )
    for name in ("SIGTERM", "SIGHUP"):  # not every system has both
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):  # which is how one ends it
        uvicorn.Server(config).run(sockets=[listening])
