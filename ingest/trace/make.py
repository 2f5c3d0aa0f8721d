"""From a question to its circuit, without any atlas: trace, prune, score, open the strongest edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from atlas.circuit import Circuit, CircuitRecord, Edges, Nodes, Scores
from ingest.models import Model
from ingest.trace.assemble import assemble, kept_columns
from ingest.trace.attribute import Warn, attribute_prepared, prepare
from ingest.trace.diffusion import effective_paths, from_entropies, influence_lost
from ingest.trace.graph import FullGraph
from ingest.trace.heads import EdgeSplitter
from ingest.trace.memory import must_stream
from ingest.trace.prune import Pruned, prune
from ingest.trace.rows import Progress
from ingest.trace.scores import from_influence, scores
from ingest.trace.stream import FirstPass, streamed
from ingest.trace.targets import TargetSpec
from ingest.transcoders import TranscoderSet

OPENED_EDGES = 200  # the strongest, by their share of the influence


def trace_circuit(
    model: Model,
    transcoders: TranscoderSet,
    asked: CircuitRecord,
    targets: Sequence[TargetSpec] | None = None,
    **options: Any,
) -> Circuit:
    """The circuit that answers the question; options as of `traced`."""
    return traced(model, transcoders, asked, targets, **options)[0]


def traced(
    model: Model,
    transcoders: TranscoderSet,
    asked: CircuitRecord,
    targets: Sequence[TargetSpec] | None = None,
    *,
    actor: str,
    batch_size: int | None = None,
    opened_edges: int = OPENED_EDGES,
    stream: bool | None = None,
    keep_full: bool = False,
    progress: Progress | None = None,
    warn: Warn | None = None,
) -> tuple[Circuit, FullGraph | None]:
    """The circuit, and with `keep_full` the full graph it was cut from.

    opened_edges: of so many of the strongest edges it is stored how much each attention head carried. stream: whether to do
    without the full graph, which takes longer and gives the same circuit (`ingest.trace.stream`); None: where the full
    graph would take more than half of the free memory. Raises InputRejected when what is asked for does not fit.
    """
    parameters = asked.method.parameters
    cap, node_threshold = parameters["max_features"], asked.thresholds["node"] or 0.0
    ids = asked.examples[0].token_ids or []
    ready = prepare(
        model,
        transcoders,
        ids,
        targets,
        None,
        parameters["max_logits"] or 0,
        parameters["logit_mass"] or 0.0,
    )
    how: dict[str, Any] = {"batch_size": batch_size, "progress": progress, "warn": warn}
    stream = must_stream(ready, max_features=cap, node_threshold=node_threshold, stream=stream, keep_full=keep_full)
    first: FirstPass | None = None
    if stream and (cap is None or cap >= ready.order.n_features):
        full, first = streamed(ready, node_threshold, **how)
    else:
        full = attribute_prepared(ready, max_features=cap, among_computed=stream, **how)
    nodes, edges, summary, rows = cut(full, asked, first)
    circuit = assemble(model, asked, full, nodes, edges, summary, actor)
    if opened_edges and len(edges):
        strongest = strongest_edges(circuit, full.target_weights[rows], opened_edges)
        parts = EdgeSplitter(ready).split(rows[edges.source[strongest]], rows[edges.target[strongest]])
        circuit.extra.update(parts.tensors(strongest))
    return circuit, full if keep_full else None


def cut(
    full: FullGraph, asked: CircuitRecord, first: FirstPass | None = None
) -> tuple[Nodes, Edges, Scores, np.ndarray]:
    """Node and edge columns at the thresholds of what was asked, the scores, and (n,) the kept nodes' rows in `full`.

    first: where `full` was streamed, what is known of the edges that it does not hold.
    """
    node_threshold, edge_threshold = (asked.thresholds[name] or 0.0 for name in ("node", "edge"))
    chosen = full.computed if full.computed is not None else np.ones(full.order.n_features, bool)
    capped, rows = full, np.arange(full.order.size)
    if not chosen.all():
        capped = full.keep_features(chosen)
        rows = np.concatenate([np.flatnonzero(chosen), np.arange(full.order.n_features, full.order.size)])
    pruned = prune(capped, node_threshold, edge_threshold, None if first is None else first.influence)
    nodes, edges = kept_columns(full, capped, rows, pruned)
    kept = rows[pruned.nodes]
    if first is None:
        whole, paths = scores(full, chosen), effective_paths(capped)
    else:
        whole, paths = from_influence(full, first.influence), from_entropies(full, first.influence, first.entropies)
    return nodes, edges, _scores(full, whole, paths, kept, capped, pruned), kept


def _scores(
    full: FullGraph, whole: tuple[float, float], paths: float, kept: np.ndarray, capped: FullGraph, pruned: Pruned
) -> Scores:
    explained = np.zeros(full.order.n_features, bool)
    explained[kept[kept < full.order.n_features]] = True
    after = scores(full, explained)
    return Scores(
        replacement=whole[0],
        completeness=whole[1],
        replacement_pruned=after[0],
        completeness_pruned=after[1],
        computed_on="full graph",
        effective_paths=paths,
        influence_lost=influence_lost(capped, pruned),
        explained_variance=None if np.isnan(full.explained_variance) else full.explained_variance,
    )


def strongest_edges(circuit: Circuit, weights: np.ndarray, count: int) -> np.ndarray:
    """Edge rows of the largest share of influence: share of the target's input times the target's own influence.

    weights: (n,) of the nodes as targets (`FullGraph.target_weights`): a difference or a direction has no probability, and
    counts all the same.
    """
    reach = np.nan_to_num(circuit.nodes.influence.astype(np.float64)) + weights
    totals = circuit.input_abs_totals[0]
    per_weight = np.divide(reach, totals, out=np.zeros_like(reach), where=totals > 0)
    strength = np.abs(circuit.edges.weight) * per_weight[circuit.edges.target]
    if count >= len(strength):
        return np.arange(len(strength))
    least = np.partition(strength, -count)[-count]
    above = np.flatnonzero(strength > least)  # of equal ones the first
    return np.sort(np.concatenate([above, np.flatnonzero(strength == least)[: count - len(above)]]))


def prune_again(full: FullGraph, circuit: Circuit, node_threshold: float, edge_threshold: float) -> Circuit:
    """The same trace at other thresholds. Parts of edges that both have are kept."""
    asked = circuit.record.model_copy(update={"thresholds": {"node": node_threshold, "edge": edge_threshold}})
    nodes, edges, summary, _ = cut(full, asked)
    fresh = Circuit(asked.model_copy(update={"scores": summary}), nodes, edges)
    return replace(fresh, extra=carry_parts(circuit, fresh))


def carry_parts(old: Circuit, new: Circuit) -> dict[str, np.ndarray]:
    """The stored parts of those edges of `old` that `new` has too."""
    if "heads.edge" not in old.extra:
        return {}
    names = lambda c: zip(c.edges.source.tolist(), c.edges.target.tolist(), strict=True)  # noqa: E731
    there = {(new.keys[s], new.keys[t]): row for row, (s, t) in enumerate(names(new))}
    row_of = np.array([there.get((old.keys[s], old.keys[t]), -1) for s, t in names(old)], np.int64)
    rows = row_of[old.extra["heads.edge"]]
    kept = {name: array[rows >= 0] for name, array in old.extra.items() if name.startswith("heads.")}
    return kept | {"heads.edge": rows[rows >= 0].astype(np.uint32)}
