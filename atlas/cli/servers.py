"""`atlas up`, `down`, `rebuild`, `migrate`, `health`, `doctor`, `ui`."""

from __future__ import annotations

import signal
import time
from typing import Annotated, Any

import typer

from atlas.cli.jobs import show_queued
from atlas.cli.main import app, extra, opened
from atlas.cli.output import Json, emit, progress_bar, stderr, table
from atlas.settings import load_settings


@app.command()
def up(json: Json = False) -> None:
    """Start the embedded graph server, if no server is set, and say where it listens."""
    with opened() as atlas:
        result = {"server": atlas.graph.server, "address": atlas.graph.address, "home": str(atlas.settings.home)}
    emit(
        result,
        json,
        lambda console: console.print(
            f"{result['server']} at {result['address']}, home {result['home']}", markup=False
        ),
    )


@app.command()
def down(json: Json = False) -> None:
    """Stop the embedded graph server of this home. Nothing is lost; the next use starts it again."""
    from atlas.graph import embedded

    stopped = embedded.stop(load_settings().home)
    emit(
        {"stopped": stopped},
        json,
        lambda console: console.print("stopped" if stopped else "no embedded server was running"),
    )


@app.command()
def rebuild(
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Also when the graph database belongs to another atlas.")
    ] = False,
    queue: Annotated[bool, typer.Option("--queue", help="Leave it to a worker (`atlas worker`).")] = False,
    json: Json = False,
) -> None:
    """Drop the graph projection and build it again from the catalog."""
    if queue:
        with opened() as atlas:
            queued = atlas.enqueue("rebuild", {"take_over": take_over})
            text = show_queued(atlas, queued)
        emit(queued, json, text)
        return
    with opened() as atlas, progress_bar("Rebuilding", json) as report:
        result = atlas.rebuild(progress=report, take_over=take_over)
    emit(
        result,
        json,
        lambda console: console.print(
            f"{result.circuits} circuits, {result.features} features, {result.labels} labels in {result.seconds:.1f} s"
        ),
    )


@app.command()
def migrate(json: Json = False) -> None:
    """Bring the catalog to the newest schema and prepare the graph server. Again and again is fine."""
    from atlas.catalog.migrate import HEAD

    with opened() as atlas:
        graph = atlas.graph
        result = {"catalog": atlas.catalog.place, "schema": HEAD, "graph": graph.server, "address": graph.address}
    emit(
        result,
        json,
        lambda console: console.print(
            f"catalog {result['catalog']}: schema {HEAD}; {result['graph']} at {result['address']}: ready"
        ),
    )


@app.command()
def health(
    worker: Annotated[bool, typer.Option("--worker", help="Also ask for a living worker of this machine.")] = False,
    json: Json = False,
) -> int:
    """Ask whether catalog and graph server answer; exit 0 when they do. For container health checks."""
    from atlas import health as looking

    with opened() as atlas:
        found = looking.health(atlas, worker_here=worker)
    here = {True: ", a worker of this machine lives", False: ", NO worker of this machine lives", None: ""}
    emit(
        found,
        json,
        lambda console: console.print(
            f"{'ready' if found.ready else 'NOT ready'}: catalog {found.catalog}, graph {found.graph}, "
            f"{found.queue} jobs, {found.workers_alive} workers{here[found.worker_here]}, "
            f"{found.outbox} changes wait for the graph"
        ),
    )
    return 0 if found.ready else 1


@app.command()
def doctor(
    mend: Annotated[bool, typer.Option("--mend", help="Put right what can be put right.")] = False,
    json: Json = False,
) -> int:
    """Look for what is wrong with settings, catalog, queue, graph server and encoder, and say or do what helps."""
    from atlas.diagnosis import examine

    checks = examine(load_settings(), mend)

    def state(check) -> str:
        return "mended" if check.ok and check.mended else "ok" if check.ok else "FAULT"

    def show_text(console):
        console.print(
            table(["", "check", "found", "what to do"], [[state(c), c.name, c.found, c.hint] for c in checks])
        )

    emit(checks, json, show_text)
    return 0 if all(check.ok for check in checks) else 1


@app.command()
def ui(
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port; default: a free one.")] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    json: Json = False,
) -> None:
    """Open the pages in a browser, on this machine only. Ctrl-C stops them."""
    with opened():
        pass  # a home or a catalog that cannot be used is told here and not on a page
    serve_ui(port, browser, json)


def serve_ui(port: int | None, browser: bool, json: bool, **how: Any) -> None:
    """Start the pages and stay until they end; `how` is passed on to `ui.run.launch`."""
    with extra("ui", "`atlas ui`"):
        from ui.run import end, launch
    for name in ("SIGTERM", "SIGHUP"):  # not every system has both
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)  # end like Ctrl-C: no server stays behind
    process, url = launch(port=port, open_browser=browser, **how)
    try:
        emit(
            {"url": url, "pid": process.pid},
            json,
            lambda console: console.print(f"Circuit Atlas at {url} (Ctrl-C stops it)", markup=False),
        )
        while process.poll() is None:
            time.sleep(0.3)
    except KeyboardInterrupt:
        return
    finally:
        end(process)
    # not an AtlasError: with --json the one document has been printed
    stderr().print(f"The UI stopped by itself with exit code {process.returncode}. Run `atlas doctor`.")
    raise typer.Exit(1)
