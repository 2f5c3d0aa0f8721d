"""`atlas verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from atlas.causal_records import VerifyRequest, VerifyResult
from atlas.cli import causal
from atlas.cli.drawing import SIGNS, scatter
from atlas.cli.intervene import MOST, moved_table
from atlas.cli.jobs import show_queued
from atlas.cli.main import app, extra, opened
from atlas.cli.output import Json, emit, progress_bar, table


@app.command()
def verify(
    circuit: causal.Circuit,
    features: Annotated[int, typer.Option(min=1, max=500, help="Ablate so many of the strongest, one by one.")] = 20,
    paths: Annotated[int, typer.Option(min=0, max=200, help="Cut every edge of so many of the strongest paths.")] = 10,
    controls: Annotated[
        int, typer.Option(min=0, max=200, help="Other features of the layer, treated alike, for each.")
    ] = 20,
    permuted: Annotated[int, typer.Option(min=0, max=50, help="Graphs of permuted transcoders to compare with.")] = 3,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Do it on each prompt of this file (one a line; or .csv, .jsonl) in place of the circuit's."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of controls, permutations and the bootstrap.")] = 0,
    model: causal.Model = None,
    transcoders: causal.Transcoders = None,
    device: causal.Device = None,
    dtype: causal.Dtype = None,
    queue: causal.Queue = False,
    json: Json = False,
) -> None:
    """Give a circuit its causal score: a standard battery of interventions in the real model, with matched controls."""
    where = {"model": model, "transcoders": transcoders, "device": device, "dtype": dtype}
    causal.not_with_queue(queue, **where)
    request = causal.checked(
        VerifyRequest,
        circuit=circuit,
        features=features,
        paths=paths,
        controls=controls,
        permuted=permuted,
        prompts=None if prompts is None else causal.texts(prompts),
        seed=seed,
    )
    with opened() as atlas:
        if queue:
            queued = atlas.enqueue("verify", request)
            return emit(queued, json, show_queued(atlas, queued))
        with extra("ingest", "`atlas verify`"):
            from ingest.verification import verify as test
        with progress_bar("Verifying", json) as report:
            loaded = causal.loaded(atlas, circuit, **where)
            result = test(atlas, request, **loaded, progress=report)

    emit(result, json, lambda console: show_verification(console, result))


def show_verification(console: Any, result: VerifyResult) -> None:
    """The causal score with its interval, p-value and baselines, the marks, predicted against measured."""
    r = result
    if r.spearman is None:
        console.print(f"{r.circuit}: no causal score, fewer than 3 effects could be measured")
    else:
        interval = (
            f", 95% {r.interval[0]:.3f} to {r.interval[1]:.3f} (bootstrap over {r.interval_over})" if r.interval else ""
        )
        against = f", p {r.p_value:.3g} against {r.controls} controls" if r.p_value is not None else ""
        console.print(
            f"{r.circuit}: rank correlation of predicted and measured effects {r.spearman:.3f}{interval}{against}"
        )
    if r.verdict:
        console.print(f"verdict {r.verdict}")
    rows = [
        (name, *counts, sum(counts))
        for name, counts in (
            ("nodes", (r.confirmed, r.refuted, r.inconclusive)),
            ("edges", (r.edges_confirmed, r.edges_refuted, r.edges_inconclusive)),
        )
    ]
    marks = [f"{SIGNS[mark]} {mark}" for mark in ("confirmed", "refuted", "inconclusive")]
    console.print(table(["", *marks, "tested"], rows))
    if r.baselines:
        rows_of = [("this graph", r.spearman, ""), *((b.name, b.spearman, b.note) for b in r.baselines)]
        console.print("")
        console.print(table(["predicted by", "rank correlation", ""], rows_of))
    points = [point.model_copy(update={"text": SIGNS.get(point.text, point.text)}) for point in r.points]
    points = [point for point in points if point.predicted is not None]
    if points:
        by_size = sorted(points, key=lambda point: -abs(point.measured))
        console.print(f"\neffect on the first target, {min(MOST, len(points))} of {len(points)}")
        console.print(moved_table(by_size[:MOST], before=False))
        console.print("")
        for line in scatter([(point.predicted or 0.0, point.measured, point.text[:1] or "o") for point in points]):
            console.print(line)
    console.print(f"\n{len(r.interventions)} interventions kept, {r.seconds:.1f} s; `atlas show --edge` has the marks")
