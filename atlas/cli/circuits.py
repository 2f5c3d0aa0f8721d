"""`atlas circuits`, `show`, `delete`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from atlas.cli.main import app, extra, opened
from atlas.cli.output import Json, emit, table, visible
from atlas.errors import ModelRejected, StoreUnavailable, UsageError

if TYPE_CHECKING:
    from atlas.api import Atlas
    from atlas.records import EdgePart, EvidenceSummary

Circuit = Annotated[str, typer.Argument(help="Circuit id, unique id prefix or unique name.")]


@app.command()
def circuits(
    model: Annotated[str | None, typer.Option(help="Only circuits of this model.")] = None,
    collection: Annotated[str | None, typer.Option("--in", help="Only circuits of this collection.")] = None,
    text: Annotated[str | None, typer.Option(help="Only circuits whose name or prompt has this text.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only circuits with this tag.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, newest first.")] = 100,
    json: Json = False,
) -> None:
    """List the circuits of the atlas."""
    with opened() as atlas:
        rows = atlas.circuits(model=model, collection=collection, text=text, limit=limit, tag=tag)

    def show_text(console):
        if not rows:
            console.print("No circuit fits. `atlas demo`, `atlas trace` and `atlas import` add circuits.")
            return
        cells = [[r.id, r.name, r.prompt, r.model, r.nodes, r.edges, r.verdict, r.created_at[:16]] for r in rows]
        console.print(table(["id", "name", "prompt", "model", "nodes", "edges", "verdict", "created"], cells))

    emit(list(rows), json, show_text)


@app.command()
def show(
    circuit: Circuit,
    edge: Annotated[
        str | None, typer.Option(help="One edge, SOURCE->TARGET: which attention heads carried how much of it.")
    ] = None,
    json: Json = False,
) -> None:
    """Show one circuit: scores, targets, provenance, its strongest nodes."""
    if edge is not None:
        return _show_edge(circuit, edge, json)
    with opened() as atlas:
        detail = atlas.show(circuit)

    def show_text(console):
        r = detail.record
        facts = [
            ("id", detail.id),
            ("name", detail.name),
            ("prompt", detail.prompt),
            ("tokens", " | ".join(r.examples[0].tokens) if r.examples else ""),
            (
                "targets",
                ", ".join(
                    f"{t.what}" + (f" (p={t.probability:.3f})" if t.probability is not None else "") for t in r.targets
                ),
            ),
            ("model", f"{r.model.name} (revision {r.model.revision}, weights {r.model.weights_hash[:16]})"),
            (
                "transcoders",
                f"{r.transcoders.name} (revision {r.transcoders.revision}, hash {r.transcoders.hash[:16]})",
            ),
            ("method", f"{r.method.name}, weights in {r.method.weight_unit}"),
            ("nodes", f"{detail.nodes} ({', '.join(f'{count} {kind}' for kind, count in detail.kinds.items())})"),
            ("edges", str(detail.edges)),
            ("thresholds", ", ".join(f"{key} {value}" for key, value in r.thresholds.items())),
            ("scores", _scores(r.scores)),
            ("verdict", " ".join([f"{detail.verdict}.", *detail.verdict_reasons])),
            ("evidence", _evidence(detail.evidence)),
            ("status", detail.status),
            ("made", f"{detail.created_at} by {detail.created_by}; {r.provenance.dtype} on {r.provenance.device}"),
            ("versions", ", ".join(f"{key} {value}" for key, value in r.provenance.versions.items())),
            ("source file", r.provenance.source_file),
            ("collections", ", ".join(detail.collections)),
            ("tags", ", ".join(detail.tags)),
            ("supernodes", ", ".join(f"{s.name} ({len(s.node_keys)})" for s in detail.supernodes)),
            ("replicates", ", ".join(detail.replicates)),
        ]
        for name, value in facts:
            if value:
                console.print(f"{name:12} {value}", markup=False)
        if detail.top_nodes:
            rows = [[n.key, n.token, n.label, n.activation, n.influence] for n in detail.top_nodes]
            console.print(table(["node", "token", "label", "activation", "influence"], rows, title="\nstrongest nodes"))

    emit(detail, json, show_text)


def _show_edge(circuit: str, edge: str, json: bool) -> None:
    from atlas.edges import parse_edge

    source, target = parse_edge(edge)
    with opened() as atlas:
        detail = atlas.edge(circuit, source, target)
        if not detail.parts:
            detail = detail.model_copy(update={"parts": _computed_parts(atlas, circuit, source, target)})

    def show_text(console):
        console.print(f"{detail.source} -> {detail.target}: weight {detail.weight:.4g}, share {detail.share:.3f}")
        if detail.measured is None:
            console.print(f"{detail.mark}: no intervention in the model has cut it")
        else:
            predicted = "nothing" if detail.predicted is None else f"{detail.predicted:.4g}"
            console.print(
                f"{detail.mark}: cut, {predicted} was predicted and {detail.measured:.4g} measured at the target"
            )
        rows = [
            [p.way, p.layer, p.head, p.from_position, p.to_position, p.weight, p.weight / detail.weight]
            for p in detail.parts
        ]
        console.print(table(["way", "layer", "head", "from", "to", "weight", "of the edge"], rows))

    emit(detail, json, show_text)


def _computed_parts(atlas: Atlas, circuit: str, source: str, target: str) -> list[EdgePart]:
    """For an edge whose parts are not stored. Raises ModelRejected when its model is not here."""
    with extra("ingest", "Opening an edge that is not stored open"):
        from ingest.labels.sources import Sources
        from ingest.trace.heads import open_edge
        from ingest.trace.targets import recorded_targets
    loaded = atlas.load(circuit)
    found = Sources(atlas, None).find(loaded.record.model.name, loaded.record.transcoders.name)
    if found is None or not loaded.record.examples or not loaded.record.examples[0].token_ids:
        raise ModelRejected(
            f"The parts of this edge are not stored, and the model {loaded.record.model.name} is not here to compute them.",
            "Name its folder and its set in a profile of atlas.toml.",
        )
    if found.model.weights_hash != loaded.record.model.weights_hash:
        raise ModelRejected(
            f"The parts of this edge are not stored, and the model {loaded.record.model.name} here has other weights.",
            "Name the folder of the model that was traced in a profile of atlas.toml.",
        )
    targets = recorded_targets(found.model, loaded)
    return open_edge(found.model, found.transcoders, loaded, source, target, targets)


def _evidence(said: EvidenceSummary) -> str:
    """What was tested in the model, '' when nothing was."""
    parts = []
    for what, counts in (("nodes", said.nodes), ("edges", said.edges), ("paths", said.paths)):
        if any(counts.model_dump().values()):
            parts.append(
                f"{what}: {counts.confirmed} confirmed, {counts.refuted} refuted, {counts.inconclusive} inconclusive"
            )
    if said.verification is not None:
        rank = "unknown" if said.spearman is None else f"{said.spearman:.2f}"
        within = (
            f" ({said.interval[0]:.2f} to {said.interval[1]:.2f} over {said.interval_over})" if said.interval else ""
        )
        chance = "" if said.p_value is None else f", p {said.p_value:.2g}"
        parts.append(
            f"verified {(said.verified_at or '')[:16]} by {said.verified_by}: rank correlation {rank}{within}{chance}"
        )
    return "; ".join(parts)


def _scores(scores) -> str:
    def pair(name, full, pruned):
        after = "" if pruned is None else f" ({pruned:.3f} after pruning)"
        return "" if full is None else f"{name} {full:.3f}{after}"

    parts = [
        pair("replacement", scores.replacement, scores.replacement_pruned),
        pair("completeness", scores.completeness, scores.completeness_pruned),
    ]
    ours = ", ".join(part for part in parts if part) + (
        f", computed on the {scores.computed_on}" if scores.computed_on != "none" else ""
    )
    if scores.influence_lost is not None:
        ours += f", {scores.influence_lost:.0%} of the influence lost by pruning"
    if scores.effective_paths is not None:
        ours += f", about {scores.effective_paths:,.0f} paths carry it"
    claimed = ", ".join(f"{name} {value:.3f}" for name, value in scores.claimed.items())
    return ours + (f"; claimed by the file: {claimed}" if claimed else "")


@app.command()
def delete(
    circuit: Circuit,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Delete one circuit. `atlas export --format circuit` first keeps a copy that can be imported again."""
    with opened() as atlas:
        circuit_id = atlas.resolve(circuit)
        if not yes and not json:
            if not _can_ask():
                raise UsageError("`atlas delete` asks before it deletes, and there is nobody to ask.", "Pass --yes.")
            typer.confirm(f"Delete {circuit_id} ({_what(atlas, circuit_id)})?", abort=True, err=True)
        result = atlas.delete(circuit_id)
    emit(result, json, lambda console: console.print(f"deleted {result.deleted}"))


def _what(atlas: Atlas, circuit_id: str) -> str:
    try:
        detail = atlas.show(circuit_id)
    except StoreUnavailable:  # damaged; deleting is the way out
        return "damaged"
    return f"{visible(detail.name)}, {detail.nodes} nodes"


def _can_ask() -> bool:
    import sys

    return sys.stdin is not None and sys.stdin.isatty()
