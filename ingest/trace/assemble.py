"""From a full graph and what of it is kept to the Circuit that everything else passes around."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from platform import python_version

import numpy as np

from atlas.circuit import KIND, Circuit, CircuitRecord, Edges, Nodes, Provenance, Scores, Target
from ingest.models.base import Model
from ingest.trace.graph import FullGraph
from ingest.trace.prune import Pruned


def kept_columns(full: FullGraph, capped: FullGraph, rows: np.ndarray, pruned: Pruned) -> tuple[Nodes, Edges]:
    """Node and edge columns of what `pruned` keeps of `capped`.

    rows: (n of capped,) row numbers in `full`. Totals of inputs are those of the full graph, before any pruning;
    influence is that of the graph the thresholds were applied to.
    """
    order, keep = capped.order, pruned.nodes
    n = order.size
    kind, layer = np.empty(n, np.uint8), np.empty(n, np.int32)
    position, index = np.empty(n, np.int32), np.full(n, -1, np.int64)
    nan = np.full(n, np.nan, np.float32)
    activation, probability = nan.copy(), nan.copy()
    kind[order.features], kind[order.errors] = KIND["feature"], KIND["error"]
    kind[order.tokens] = KIND["token"]
    kind[order.logits] = [KIND["resid" if spec.kind == "direction" else "logit"] for spec in capped.logit_targets]
    layer[order.features], position[order.features], index[order.features] = capped.features.T
    layer[order.errors] = np.repeat(np.arange(order.n_layers), order.n_positions)
    position[order.errors] = np.tile(np.arange(order.n_positions), order.n_layers)
    layer[order.tokens], position[order.tokens] = -1, np.arange(order.n_positions)
    index[order.tokens] = capped.token_ids
    if capped.logit_layers is not None and capped.logit_positions is not None:
        layer[order.logits], position[order.logits] = capped.logit_layers, capped.logit_positions
    index[order.logits] = capped.logit_token_ids
    activation[order.features] = capped.activations
    probability[order.logits] = capped.logit_probabilities
    nodes = Nodes(
        kind=kind,
        layer=layer,
        position=position,
        index=index,
        activation=activation,
        probability=probability,
        influence=pruned.influence,
        influence_cumulative=pruned.influence_cumulative,
        input_total=full.totals[0][rows],
        input_abs_total=full.totals[1][rows],
    ).take(keep)
    new_row = np.cumsum(keep, dtype=np.uint32) - 1  # of a node that is not kept it means nothing
    target = np.searchsorted(capped.matrix.indptr, np.flatnonzero(pruned.edges), side="right") - 1
    edges = Edges(
        source=new_row[capped.matrix.indices[pruned.edges]],
        target=new_row[target],
        weight=capped.matrix.data[pruned.edges],
    )
    return nodes, edges


def assemble(
    model: Model, asked: CircuitRecord, graph: FullGraph, nodes: Nodes, edges: Edges, scores: Scores, actor: str
) -> Circuit:
    """The circuit: what was asked, completed by targets, scores and provenance."""
    targets = [
        Target(
            kind=spec.kind,
            what=spec.what,
            token_id=int(identity),
            position=int(position),
            probability=None if np.isnan(chance) else float(chance),
        )
        for spec, identity, position, chance in zip(
            graph.logit_targets,
            graph.logit_token_ids,
            graph.logit_positions if graph.logit_positions is not None else [],
            graph.logit_probabilities,
            strict=True,
        )
    ]
    targets += [
        Target(kind="feature", what=f"{layer}/{index}", position=int(position))
        for layer, position, index in graph.features[graph.explained_features]
    ]
    return Circuit(
        asked.model_copy(update={"targets": targets, "scores": scores, "provenance": provenance(model, actor)}),
        nodes,
        edges,
    )


def provenance(model: Model, actor: str) -> Provenance:
    """Who made it, now, with what."""
    return Provenance(
        created_by=actor,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        dtype=model.dtype_name,
        device=_device_name(model),
        versions={name: _version(name) for name in ("circuit-atlas", "torch", "transformers", "numpy")}
        | {"python": python_version()},
    )


def _device_name(model: Model) -> str:
    if model.device.type != "cuda":
        return str(model.device)
    import torch

    return f"{model.device} ({torch.cuda.get_device_name(model.device)})"


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
