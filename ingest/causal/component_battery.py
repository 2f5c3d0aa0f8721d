"""The battery of a component circuit, and what simpler scores predict of the same effects."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from atlas.causal_records import BaselineScore, InterventionRequest, InterventionRow, VerifyRequest
from atlas.circuit import Circuit
from atlas.errors import InputRejected
from ingest.causal.components import SITE, ComponentLaboratory, Part
from ingest.causal.network import Progress
from ingest.components.eap import edge_scores
from ingest.components.network import Place, run
from ingest.verification import baseline, path_edges, strongest_nodes


def battery(circuit: Circuit, laboratory: ComponentLaboratory, request: VerifyRequest) -> list[InterventionRequest]:
    """The strongest heads and MLPs one by one, and every edge on the strongest paths from the embeddings to the metric.

    Raises InputRejected for a circuit without scores.
    """
    if not np.isfinite(laboratory.scores).any():
        raise InputRejected(
            f"The circuit {circuit.id} does not hold the scores of its nodes.", "Find it again with `atlas components`."
        )

    def ask(kind: Any, rows: list[int]) -> InterventionRequest:
        keys = [circuit.keys[row] for row in rows]
        return InterventionRequest(
            circuit=circuit.id, kind=kind, nodes=keys, controls=request.controls, seed=request.seed
        )

    nodes = strongest_nodes(circuit, ("head", "mlp", "neuron"), request.features)
    pairs = path_edges(circuit, laboratory.target, request.paths)
    whole = [pair for pair in pairs if all(laboratory.part(row).kind != "neuron" for row in pair)]
    return [ask("ablate", [row]) for row in nodes] + [ask("cut", list(pair)) for pair in whole]


def baselines(
    laboratory: ComponentLaboratory, single: list[InterventionRow], progress: Progress | None
) -> list[BaselineScore]:
    """single: components ablated one by one."""
    circuit = laboratory.circuit
    rows = [circuit.row(row.nodes[0]) for row in single]
    measured = [row.targets[0].measured for row in single]
    parts = [laboratory.part(row) for row in rows]
    weights = circuit.adjacency()
    direct = [-float(weights[laboratory.target, row]) for row in rows]
    found = [
        baseline("direct edge", direct, measured, "the weight of the component's own edge to the metric, 0 without one")
    ]
    if all(part.kind != "neuron" for part in parts) and parts:
        sizes = _sizes(laboratory, parts)
        note = "the more the corrupted prompt changes a component's output, the more the metric falls"
        found.insert(0, baseline("raw activation", -sizes, measured, note))
        if circuit.record.method.parameters.get("steps", 1) > 1:
            scores = edge_scores(laboratory.model, laboratory.cases, laboratory.metric, 1, progress=progress)
            sources = [laboratory.source(part) for part in parts]
            found.append(
                baseline(
                    "plain gradient", -scores.node_scores[sources], measured, "edge attribution patching of one step"
                )
            )
    return found


@torch.inference_mode()
def _sizes(laboratory: ComponentLaboratory, parts: list[Part]) -> np.ndarray:
    """(n,) length of the difference of the outputs on clean and corrupted prompts, mean over the cases."""
    cases, total = laboratory.cases, np.zeros(len(parts))
    if cases.corrupted is None:
        return total
    reads = [Place(SITE[part.kind], part.height) for part in parts]
    for group in cases.by_length():
        some = cases.take(group)
        assert some.corrupted is not None
        clean, other = (run(laboratory.model, ids, reads=reads).values for ids in (some.clean, some.corrupted))
        for number, (part, place) in enumerate(zip(parts, reads, strict=True)):
            change = other[place] - clean[place]
            if part.kind == "head":
                block, size = laboratory.tail.blocks[part.layer], laboratory.tail.blocks[part.layer].head_size
                written = block.output_weight[:, part.index * size : (part.index + 1) * size]
                change = change[:, :, part.index] @ written.T
            total[number] += float(change.flatten(1).norm(dim=1).sum())
    return total / len(cases)
