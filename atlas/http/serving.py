"""The server of the API alone, without pages: uvicorn on a socket that is bound before anything is said."""

from __future__ import annotations

import contextlib
import signal
import socket

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from atlas.api import Atlas
from atlas.errors import UsageError
from atlas.http.app import make_app

BACKLOG = 512


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


def make_site(atlas: Atlas) -> Starlette:
    """What `atlas serve --no-ui` answers: the verbs below /api."""
    return Starlette(routes=[Mount("/api", make_app(atlas))])


def serve(atlas: Atlas, listening: socket.socket, behind_tls: bool) -> None:
    """Answer until Ctrl-C or SIGTERM. `behind_tls`: believe the proxy in front about the scheme and who asks."""
    config = uvicorn.Config(
        make_site(atlas),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=behind_tls,
        forwarded_allow_ips="*" if behind_tls else None,
    )
    for name in ("SIGTERM", "SIGHUP"):  # not every system has both
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):  # which is how one ends it
        uvicorn.Server(config).run(sockets=[listening])
