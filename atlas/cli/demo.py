"""`atlas demo`: from nothing to circuits of a real, small language model in a browser."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Annotated

import typer

from atlas.cli.main import app, extra, opened
from atlas.cli.output import Json, emit, progress_bar, stderr, table
from atlas.cli.servers import serve_ui
from atlas.errors import AtlasError

if TYPE_CHECKING:
    from atlas.api import Atlas


def _start_server(atlas: Atlas) -> None:
    with contextlib.suppress(AtlasError):  # a fault is raised again, in the main thread, by the first use
        _ = atlas.graph


@app.command()
def demo(
    ui: Annotated[bool, typer.Option("--ui/--no-ui", help="Open the pages at the end.")] = True,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of the pages; default: a free one.")] = None,
    json: Json = False,
) -> None:
    """Trace the sample prompts with the shipped model, label the features, open the pages."""
    began = time.monotonic()
    if not json:
        stderr().print("Loading torch and starting the graph server ...")
    with opened() as atlas:
        # the server takes seconds to start and so does importing torch: both at once
        starting = threading.Thread(target=_start_server, args=(atlas,), daemon=True)
        starting.start()
        with extra("ingest", "`atlas demo`"):
            from ingest.labels import label_features
            from ingest.models import load_model
            from ingest.organism import SAMPLE_PROMPTS, model_path, transcoders_path
            from ingest.trace import trace
            from ingest.transcoders import load_transcoders
        model = load_model(model_path())
        transcoders = load_transcoders(transcoders_path(), model)
        starting.join()
        results = []
        with progress_bar("Tracing", json) as report:
            for number, sample in enumerate(SAMPLE_PROMPTS):
                report(number, len(SAMPLE_PROMPTS), sample.prompt)
                results.append(trace(atlas, sample.prompt, model=model, transcoders=transcoders, collection="demo"))
        with progress_bar("Labelling", json) as report:
            name = atlas.load(results[0].circuit).record.model.name
            labels = label_features(atlas, model=name, models={name: (model, transcoders)}, progress=report)
        overview = atlas.overview()
    seconds = time.monotonic() - began

    summary = {
        "circuits": [result.circuit for result in results],
        "features": overview.features,
        "labels": overview.labelled,
        "seconds": round(seconds, 1),
    }

    def show_text(console):
        rows = [
            [
                result.circuit,
                sample.prompt,
                sample.answer,
                result.nodes,
                result.edges,
                result.scores.replacement,
                result.scores.completeness,
            ]
            for result, sample in zip(results, SAMPLE_PROMPTS, strict=True)
        ]
        console.print(table(["circuit", "prompt", "answer", "nodes", "edges", "replacement", "completeness"], rows))
        scores = (
            ""
            if labels.mean_score is None
            else f", label score {labels.mean_score:.2f} beside {labels.random_score:.2f} at random"
        )
        console.print(
            f"{len(results)} circuits, {overview.features} features, {overview.labelled} labelled{scores}; {seconds:.0f} s"
        )

    emit(summary, json, show_text)
    if ui:
        serve_ui(port, browser, False)
