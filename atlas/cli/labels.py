"""`atlas label`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from atlas.cli.jobs import show_queued
from atlas.cli.main import app, extra, opened
from atlas.cli.output import Json, emit, progress_bar
from atlas.errors import InputRejected


class Labeler(StrEnum):
    tokens = "tokens"


@app.command()
def label(
    model: Annotated[str | None, typer.Option(help="Only features of this model.")] = None,
    labeler: Annotated[
        Labeler, typer.Option(help="What makes the labels; `tokens` is deterministic and needs no network.")
    ] = Labeler.tokens,
    texts: Annotated[
        Path | None, typer.Option(help="File of texts, one per line, to find activation examples in.")
    ] = None,
    relabel: Annotated[
        bool, typer.Option("--relabel", help="Also features that have a label by this labeler already.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many features.")] = None,
    queue: Annotated[bool, typer.Option("--queue", help="Leave it to a worker (`atlas worker`).")] = False,
    json: Json = False,
) -> None:
    """Label the features that this labeler has not labelled yet: activation examples, label, score, embedding."""
    lines = None
    if texts is not None:
        try:
            lines = [line for line in texts.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise InputRejected(
                f"{texts} cannot be read as text: {reason}.", "Pass a UTF-8 file with one text per line."
            ) from error
    if queue:
        asked = {"model": model, "labeler": labeler.value, "limit": limit, "texts": lines, "relabel": relabel}
        with opened() as atlas:
            queued = atlas.enqueue("label", asked)
            text = show_queued(atlas, queued)
        emit(queued, json, text)
        return
    with extra("ingest", "`atlas label`"):
        from ingest.labels import label_features
    with opened() as atlas, progress_bar("Labelling", json) as report:
        result = label_features(
            atlas, model=model, labeler=labeler.value, limit=limit, texts=lines, relabel=relabel, progress=report
        )

    def show_text(console):
        console.print(f"{result.labelled} features labelled, {result.skipped} skipped because their model is not here")
        if not result.labelled and not result.skipped:
            console.print("Every feature has a label by this labeler; --relabel makes them anew.")
        if result.mean_score is not None and result.random_score is not None:
            console.print(
                f"mean label score {result.mean_score:.3f} beside {result.random_score:.3f} for a random feature's label (0.5 = chance)"
            )

    emit(result, json, show_text)
