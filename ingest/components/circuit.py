"""From prompt pairs to a circuit of heads and MLPs: edges scored by attribution patching, the strongest kept.

Pruning: edges by absolute score, and of the circuits of the k strongest the smallest found that holds the asked share of the metric when
every other edge carries the corrupted run (Hanna et al. 2024, section 2.3, without the greedy walk: an edge that no path of kept edges
joins to both ends changes nothing and is left out afterwards).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from atlas.causal_records import ComponentsRequest
from atlas.circuit import KIND, Circuit, CircuitRecord, Edges, Nodes
from atlas.errors import InputRejected
from atlas.records import Added
from ingest.components import curves
from ingest.components.eap import EdgeScores, edge_scores
from ingest.components.metrics import Metric
from ingest.components.metrics import metric as metric_named
from ingest.components.network import with_clean_logits
from ingest.components.neurons import Neurons, strongest_neurons
from ingest.components.pairs import Cases, make_cases, requested_pairs
from ingest.components.record import question, requested_model, source_of
from ingest.components.split import Progress, SplitNetwork
from ingest.components.wiring import Wiring
from ingest.models import Model
from ingest.models.decoder import DecoderModel
from ingest.trace.assemble import provenance
from ingest.trace.influence import running_share

if TYPE_CHECKING:
    from atlas.api import Atlas

METHOD = "edge attribution patching"
CLOSE = 1.05  # the number of edges is searched for to within this factor
NOTHING = 1e-6  # a difference of the two runs' metric below this share of its size explains nothing


def component_circuit(
    atlas: Atlas,
    request: ComponentsRequest,
    model: Model | None = None,
    progress: Progress | None = None,
    origin: dict[str, Any] | None = None,
) -> Added:
    """Find the circuit and keep it; one that answers the same question already is returned.

    model: loaded, in place of the request's. origin: the job and its worker, for the provenance; with it, metrics that name
    functions are refused. Raises UsageError, InputRejected (pairs, or a metric that the corruption does not move), ModelRejected.
    """
    chosen = metric_named(request.metric, functions=origin is None)
    found, name = requested_model(atlas.settings, request, model)
    cases = make_cases(found, requested_pairs(found, request), metric=request.metric, corrupted=True)
    parameters = {
        "steps": request.steps,
        "edges": request.edges,
        "faithfulness": None if request.edges else request.faithfulness,
        "neurons": request.neurons,
    }
    asked = question(found, name, cases, METHOD, chosen, parameters)
    known = atlas.find_trace(Circuit(asked, Nodes(0), Edges(0)).trace_key)
    if known:
        return atlas.add(atlas.load(known), collection=request.collection)
    circuit = made_circuit(found, cases, chosen, asked, request, progress)
    made = provenance(found, atlas.actor)
    made.source_metadata.update(circuit.record.provenance.source_metadata | source_of(request, origin))
    return atlas.add(circuit.with_record(provenance=made), collection=request.collection)


def made_circuit(
    model: DecoderModel,
    cases: Cases,
    metric: Metric,
    asked: CircuitRecord,
    request: ComponentsRequest,
    progress: Progress | None = None,
) -> Circuit:
    """The circuit without any atlas. What was measured on the way lies in its provenance's source_metadata."""
    if metric.needs_clean:
        cases = with_clean_logits(model, cases)
    scores = edge_scores(model, cases, metric, request.steps, progress=progress)
    pruned = prune(SplitNetwork(model), cases, metric, scores, request.faithfulness, request.edges, progress)
    neurons = None
    if request.neurons:
        mlps = [scores.wiring.mlp(layer) for layer in range(scores.wiring.layers)]
        layers = np.isin(mlps, scores.sources[pruned.keep])
        neurons = strongest_neurons(model, cases, metric, request.steps, request.neurons, layers, progress=progress)
    nodes, edges, node_scores = columns(scores, pruned.keep, neurons)
    made = asked.provenance.model_copy(
        update={
            "source_metadata": {
                "metric_clean": pruned.clean,
                "metric_corrupted": pruned.corrupted,
                "faithfulness": pruned.faithfulness,
                "edges_ranked": pruned.ranked,
                "edges_kept": int(pruned.keep.sum()),  # without those of neurons, which are parts of them
                "edges_of_the_network": scores.wiring.n_edges,
            }
        }
    )
    extra = {"eap.node_score": node_scores.astype(np.float32)}
    return Circuit(asked.model_copy(update={"provenance": made}), nodes, edges, extra)


@dataclass
class Pruned:
    keep: (
        np.ndarray
    )  # (E,) bool, edges as in Wiring: the strongest that lie on a path from the embeddings to the logits
    ranked: int  # so many strongest edges they are of
    faithfulness: float  # of the circuit
    clean: float  # the metric of the whole network
    corrupted: float  # and with no edge


def prune(
    network: SplitNetwork,
    cases: Cases,
    metric: Metric,
    scores: EdgeScores,
    faithfulness: float = 0.85,
    edges: int | None = None,
    progress: Progress | None = None,
) -> Pruned:
    """The `edges` strongest by absolute score, or the fewest found with at least this faithfulness, whose sizes are tried along
    MIB's grid and then between its neighbours (f need not rise with k, so a smaller one may exist).

    Raises InputRejected: a metric that the corruption does not move, a faithfulness that no size reaches, edges that form no path.
    """
    wiring = network.wiring
    order = np.argsort(-np.abs(scores.scores.numpy()), kind="stable")

    def kept(size: int) -> np.ndarray:
        keep = np.zeros(wiring.n_edges, bool)
        keep[order[:size]] = True
        return wiring.alive(keep)

    def measured(*keeps: np.ndarray) -> list[float]:
        values = network.measure(cases, torch.from_numpy(np.stack(keeps)), metric)
        return values.double().mean(1).tolist()

    clean, corrupted = measured(np.ones(wiring.n_edges, bool), np.zeros(wiring.n_edges, bool))
    if abs(clean - corrupted) <= NOTHING * max(abs(clean), abs(corrupted)):
        raise InputRejected(
            f"The metric is {clean:.4g} on the clean and {corrupted:.4g} on the corrupted prompts, so nothing is to be explained.",
            "Choose corrupted prompts that change what the model answers.",
        )
    tried: dict[int, float] = {0: 0.0}

    def reached(size: int) -> float:
        if size not in tried:
            keep = kept(size)
            tried[size] = (measured(keep)[0] - corrupted) / (clean - corrupted) if keep.any() else 0.0
            if progress:
                progress(len(tried), len(tried) + 1, f"circuit of {size} edges")
        return tried[size]

    size = min(edges, wiring.n_edges) if edges else _smallest(reached, wiring.n_edges, faithfulness)
    keep = kept(size)
    if not keep.any():
        raise InputRejected(
            f"The {size} strongest edges form no path from the embeddings to the logits.", "Keep more edges."
        )
    return Pruned(keep, size, reached(size), clean, corrupted)


def _smallest(reached: Any, total: int, faithfulness: float) -> int:
    below, above = 0, None
    for size in curves.sizes(total):
        if reached(size) >= faithfulness:
            above = size
            break
        below = size
    if above is None:
        raise InputRejected(
            f"No circuit of the strongest edges reaches a faithfulness of {faithfulness:g}.", "Ask for 1 or less."
        )
    while above - below > 1 and above > CLOSE * below:
        middle = round((max(below, 1) * above) ** 0.5)
        middle = min(max(middle, below + 1), above - 1)
        if reached(middle) >= faithfulness:
            above = middle
        else:
            below = middle
    return above


def columns(scores: EdgeScores, keep: np.ndarray, neurons: Neurons | None = None) -> tuple[Nodes, Edges, np.ndarray]:
    """Node and edge columns of a circuit, and (n,) its nodes' scores. Totals of inputs are those of all edges, all slots together.

    neurons: put beside the MLPs they are of; what an MLP's own edges carry is then less by what its neurons' edges do.
    """
    wiring, total = scores.wiring, scores.scores.numpy()
    count = 0 if neurons is None else len(neurons)
    logits = wiring.n_sources + count  # neurons stand between the sources and the logits
    nodes, node_score = wiring.nodes(), scores.node_scores
    nodes.input_total[:] = np.bincount(wiring.edge_target, weights=total, minlength=len(nodes))
    nodes.input_abs_total[:] = np.bincount(wiring.edge_target, weights=np.abs(total), minlength=len(nodes))
    source, target = wiring.edge_source[keep], wiring.edge_target[keep]
    slot, reader, weight = wiring.edge_slot[keep], wiring.edge_input[keep], total[keep]
    target = np.where(target == wiring.n_sources, logits, target)
    if neurons is not None:
        nodes, node_score = _with_neurons(nodes, node_score, neurons, wiring)
        finer = [(source, target, slot, weight)]
        for n, layer in enumerate(neurons.layer.tolist()):
            inward, outward = target == wiring.mlp(layer), source == wiring.mlp(layer)
            into, out = neurons.into[source[inward], n], neurons.out[n, reader[outward]]
            weight[inward] -= into
            weight[outward] -= out
            own = np.full(len(source), wiring.n_sources + n)
            finer.append((source[inward], own[inward], slot[inward], into))
            finer.append((own[outward], target[outward], slot[outward], out))
        source, target, slot, weight = (np.concatenate(column) for column in zip(*finer, strict=True))
    nodes.influence[:] = np.abs(node_score)
    nodes.influence_cumulative[:] = running_share(np.abs(node_score))
    used = np.zeros(len(nodes), bool)
    used[[0, logits]] = used[source] = used[target] = True
    row = np.cumsum(used) - 1
    return nodes.take(used), Edges(source=row[source], target=row[target], weight=weight, slot=slot), node_score[used]


def _with_neurons(nodes: Nodes, node_score: np.ndarray, neurons: Neurons, wiring: Wiring) -> tuple[Nodes, np.ndarray]:
    """Node columns and scores with the neurons before the logits; an MLP's score is then that of its other neurons."""
    made = Nodes(
        kind=np.full(len(neurons), KIND["neuron"]),
        layer=neurons.layer,
        index=neurons.index,
        input_total=neurons.into.sum(0),
        input_abs_total=np.abs(neurons.into).sum(0),
    )
    first, last = nodes.columns(), made.columns()
    both: dict[str, Any] = {n: np.concatenate([first[n][:-1], last[n], first[n][-1:]]) for n in first}
    node_score = np.concatenate([node_score[:-1], neurons.scores, node_score[-1:]])
    np.subtract.at(node_score, [wiring.mlp(layer) for layer in neurons.layer.tolist()], neurons.scores)
    return Nodes(**both), node_score
