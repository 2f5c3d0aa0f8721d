"""`atlas serve` and `atlas mcp`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from atlas.cli.main import app, extra, opened
from atlas.cli.output import Json, emit
from atlas.cli.servers import serve_ui
from atlas.errors import UsageError
from atlas.settings import load_settings

if TYPE_CHECKING:
    from atlas.api import Atlas

TITLE = "Circuit Atlas"
USUAL_PORT = 8501


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 = all of this machine.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; default 8501, 0 = a free one.")] = None,
    no_ui: Annotated[bool, typer.Option("--no-ui", help="The API alone, without the pages.")] = False,
    behind_tls: Annotated[
        bool, typer.Option("--behind-tls", help="A proxy in front speaks https: Secure cookies, its headers count.")
    ] = False,
    json: Json = False,
) -> None:
    """Serve the atlas to people with accounts: pages, the verbs over HTTP, MCP. Ctrl-C stops it."""
    settings = load_settings()
    if settings.server:
        raise UsageError("`atlas serve` serves the atlas of this machine.", "Run it without ATLAS_SERVER.")
    with opened() as atlas:
        if all(person.disabled for person in atlas.people()):
            raise UsageError(
                "Nobody has an account that could sign in to this atlas.",
                "Run `atlas people add NAME --role admin` first.",
            )
        if no_ui:
            _serve_api(atlas, host, port, behind_tls or settings.https, json)
            return
    serve_ui(port, False, json, host=host, accounts=True, https=behind_tls or settings.https)


def _serve_api(atlas: Atlas, host: str, port: int | None, behind_tls: bool, json: bool) -> None:
    with extra("ui", "`atlas serve`"):
        from atlas.http import serving
    listening = serving.bind(host, USUAL_PORT if port is None else port)
    url = serving.url_of(listening)
    emit({"url": url, "pid": os.getpid()}, json, lambda console: console.print(f"{TITLE} at {url} (Ctrl-C stops it)"))
    serving.serve(atlas, listening, behind_tls)


@app.command()
def mcp(json: Json = False) -> None:
    """Answer an assistant over MCP on stdin and stdout, with the asking verbs alone; see docs/remote.md."""
    with extra("ui", "`atlas mcp`"):
        from atlas.mcp import run_stdio
    with opened() as atlas:
        run_stdio(atlas)
