"""`atlas search`, `paths`, `compare`, `cypher`."""

from __future__ import annotations

import json as json_library
from typing import Annotated

import typer

from atlas.cli.main import app, opened
from atlas.cli.output import Json, emit, table
from atlas.errors import UsageError

Model = Annotated[str | None, typer.Option(help="Only this model.")]
Limit = Annotated[int, typer.Option(min=1, help="At most this many.")]


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="What the feature is about, in words.")],
    model: Model = None,
    layers: Annotated[str | None, typer.Option(help="Layers, as 2-5 or 3.")] = None,
    limit: Limit = 20,
    json: Json = False,
) -> None:
    """Search labelled features by description."""
    with opened() as atlas:
        hits = atlas.search(text, model=model, layers=parse_layers(layers), limit=limit)
        meaning = atlas.searches_by_meaning

    def show_text(console):
        if not meaning:
            console.print("Full text only: sentence-transformers is not installed (pip install 'circuit-atlas[ui]').")
        if not hits:
            console.print("No labelled feature fits. `atlas label` labels the features of traced circuits.")
            return
        rows = [[hit.feature, hit.label, hit.score, hit.circuits, hit.label_score, hit.matched] for hit in hits]
        console.print(table(["feature", "label", "score", "circuits", "label score", "matched"], rows))

    emit(list(hits), json, show_text)


def parse_layers(text: str | None) -> tuple[int, int] | None:
    """'2-5' or '3' as (first, last). Raises UsageError."""
    if text is None:
        return None
    first, _, last = text.partition("-")
    try:
        low, high = int(first), int(last or first)
    except ValueError:
        raise UsageError(
            f"--layers {text!r} is not a range of layers.", "Write it as 2-5, or 3 for one layer."
        ) from None
    if low > high:
        raise UsageError(f"--layers {text!r} begins after it ends.", "Write the lower layer first.")
    return low, high


@app.command()
def paths(
    source: Annotated[
        str, typer.Argument(metavar="FROM", help="Text, feature:KEY, token:TEXT, logit:TEXT or concept:NAME.")
    ],
    target: Annotated[str, typer.Argument(metavar="TO", help="The same forms.")],
    circuit: Annotated[str | None, typer.Option(help="Only this circuit.")] = None,
    model: Model = None,
    collection: Annotated[str | None, typer.Option("--in", help="Only this collection.")] = None,
    limit: Limit = 10,
    null_graphs: Annotated[int, typer.Option(min=0, help="Null graphs for the p-value; 0 = none.")] = 199,
    seed: Annotated[int, typer.Option(help="Seed of the null graphs.")] = 0,
    json: Json = False,
) -> None:
    """The strongest paths between two concepts, with a p-value against a block permutation of the weights."""
    with opened() as atlas:
        hits = atlas.paths(
            source,
            target,
            circuit=circuit,
            model=model,
            collection=collection,
            limit=limit,
            null_graphs=null_graphs,
            seed=seed,
        )

    def show_text(console):
        if not hits:
            console.print("No path. Either no circuit has both ends, or nothing connects them after pruning.")
            return
        rows = []
        for hit in hits:
            steps = " → ".join(f"{node.label or node.token or node.key} [{node.key}]" for node in hit.nodes)
            p_value = None if hit.p_value is None else f"{hit.p_value:.3f}"
            rows.append([hit.share, hit.effect, p_value, hit.circuit, steps])
        console.print(table(["share", "effect", "p", "circuit", "path"], rows))
        if null_graphs:
            console.print(
                f"p = (1 + exceedances) / (1 + {null_graphs}) null graphs; small means stronger than the architecture alone explains."
            )
        if not all(hit.shares_known for hit in hits):
            console.print("Shares of imported circuits are over kept edges: their totals before pruning are unknown.")

    emit(list(hits), json, show_text)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="Circuit id, unique id prefix or unique name.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other circuit.")],
    json: Json = False,
) -> None:
    """Compare two circuits: the aligned, signed difference of their edges."""
    with opened() as atlas:
        result = atlas.compare(a, b)

    def show_text(console):
        console.print(
            f"{result.shared} edges in both, {result.only_a} only in A, {result.only_b} only in B; "
            f"similarity {result.similarity:.3f}, {result.aligned_share:.0%} of the weight is on aligned nodes"
        )
        if result.floor is None:
            console.print(
                "No replicates of either trace, so no noise floor: `atlas trace --again` on another machine or device measures it."
            )
        else:
            console.print(f"Noise floor from replicates: {result.floor:.2g}")
        rows = [[e.source, e.target, e.a, e.b, e.delta, e.above_noise] for e in result.edges[:20]]
        console.print(table(["source", "target", "A", "B", "B - A", "above noise"], rows))

    emit(result, json, show_text)


@app.command()
def cypher(
    query: Annotated[str, typer.Argument(help="Read-only Cypher.")],
    params: Annotated[str | None, typer.Option(help="Parameters, as a JSON object.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many rows.")] = None,
    json: Json = False,
) -> None:
    """Run read-only Cypher over all circuits."""
    parameters = {}
    if params:
        try:
            parameters = json_library.loads(params)
        except ValueError as error:
            raise UsageError(f"--params is not JSON: {error}.", """Write it as '{"name": "value"}'.""") from None
        if not isinstance(parameters, dict):
            raise UsageError("--params is not a JSON object.", """Write it as '{"name": "value"}'.""")
    with opened() as atlas:
        result = atlas.cypher(query, params=parameters, limit=limit)

    def show_text(console):
        console.print(table(result.columns, result.rows))
        if result.truncated:
            console.print(f"More rows exist; these are the first {len(result.rows)}. Raise --limit to see more.")

    emit(result, json, show_text)
