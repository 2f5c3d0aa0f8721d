"""`atlas components`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from atlas.causal_records import ComponentsRequest
from atlas.circuit import SLOTS
from atlas.cli import cases, causal
from atlas.cli.drawing import bar, component_name
from atlas.cli.jobs import show_queued
from atlas.cli.main import app, extra, opened
from atlas.cli.output import Json, emit, progress_bar, table
from atlas.cli.patch import about_cases

if TYPE_CHECKING:
    from atlas.circuit import Circuit

STRONGEST = 12  # rows of the tables


@app.command()
def components(
    model: cases.Model = None,
    profile: cases.Profile = None,
    pairs: cases.Pairs = None,
    clean: cases.Clean = None,
    corrupted: cases.Corrupted = None,
    answer: cases.Answer = None,
    wrong: cases.Wrong = None,
    template: cases.Template = None,
    count: cases.Count = 50,
    seed: cases.Seed = 0,
    metric: cases.Metric = "logit-difference",
    steps: Annotated[
        int, typer.Option(min=1, max=200, help="Integration steps of EAP-IG; 1 = plain edge attribution patching.")
    ] = 5,
    faithfulness: Annotated[
        float, typer.Option(help="Keep the fewest edges that hold this share of the metric; above 0.")
    ] = 0.85,
    edges: Annotated[int | None, typer.Option(min=1, help="Keep so many edges instead.")] = None,
    neurons: Annotated[
        int, typer.Option(min=0, help="As a finer level, so many of the strongest neurons of the MLPs.")
    ] = 0,
    collection: cases.Collection = None,
    device: causal.Device = None,
    dtype: causal.Dtype = None,
    queue: causal.Queue = False,
    json: Json = False,
) -> None:
    """Find the circuit of attention heads and MLPs by edge attribution patching, for a model without transcoders too."""
    causal.not_with_queue(queue, device=device, dtype=dtype)
    asked = cases.on_cases(
        model=model,
        profile=profile,
        pairs=pairs,
        clean=clean,
        corrupted=corrupted,
        answer=answer,
        wrong=wrong,
        template=template,
        count=count,
        seed=seed,
        metric=metric,
        collection=collection,
        queue=queue,
    )
    request = causal.checked(
        ComponentsRequest, **asked, steps=steps, faithfulness=faithfulness, edges=edges, neurons=neurons
    )
    with opened() as atlas:
        if queue:
            queued = atlas.enqueue("components", request)
            return emit(queued, json, show_queued(atlas, queued))
        with extra("ingest", "`atlas components`"):
            from ingest.components.circuit import component_circuit
            from ingest.worker.models import LoadedModels
        with progress_bar("Finding the circuit", json) as report:
            loaded = LoadedModels(atlas.settings, device, dtype).model(request)
            result = component_circuit(atlas, request, model=loaded, progress=report)
        circuit = atlas.load(result.circuit)

    def show_text(console):
        state = ", already in the atlas" if result.already else ""
        console.print(f"{result.circuit}: {result.nodes} nodes, {result.edges} edges{state}")
        show_components(console, circuit)

    emit(result, json, show_text)


def show_components(console: Any, circuit: Circuit) -> None:
    """The strongest nodes and edges by their scores."""
    console.print(about_cases(circuit))
    said = circuit.record.provenance.source_metadata
    if "faithfulness" in said:
        console.print(
            f"by themselves these {said.get('edges_kept', len(circuit.edges))} of {said['edges_of_the_network']} edges hold {said['faithfulness']:.3f} of the "
            f"metric ({said['metric_clean']:.4g} on clean prompts, {said['metric_corrupted']:.4g} on corrupted ones)"
        )
    score = circuit.extra.get("eap.node_score")
    if score is not None and len(score):
        order = np.argsort(-np.abs(score), kind="stable")[:STRONGEST].tolist()
        largest = float(np.abs(score[order]).max())
        rows = [(component_name(circuit, row), float(score[row]), bar(float(score[row]), largest)) for row in order]
        console.print("\nstrongest nodes")
        console.print(table(["node", "score", ""], rows))
    show_edges(console, circuit)


def show_edges(console: Any, circuit: Circuit) -> None:
    e = circuit.edges
    if not len(e):
        return
    order = np.argsort(-np.abs(e.weight), kind="stable")[:STRONGEST].tolist()
    largest = float(np.abs(e.weight[order]).max())
    rows = [
        (
            component_name(circuit, int(e.source[row])),
            component_name(circuit, int(e.target[row])),
            SLOTS[e.slot[row]],
            float(e.weight[row]),
            bar(float(e.weight[row]), largest),
        )
        for row in order
    ]
    console.print("\nstrongest edges (positive: the metric would fall without it)")
    console.print(table(["from", "to", "into", "weight", ""], rows))
