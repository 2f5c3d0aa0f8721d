"""A full graph on disk, so that it can be pruned again without tracing: one safetensors file beside the atlas.

Kept where it was asked for (`--keep-full`), under `full/` of the atlas home, by circuit id. It is no part of the catalog: losing
it costs another trace and nothing else.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy import sparse

from atlas.circuit import CircuitRecord
from atlas.errors import InputRejected, NotFound
from atlas.settings import Settings
from ingest.trace.graph import FullGraph, NodeOrder
from ingest.trace.targets import TargetSpec

VERSION = "1"


def place(settings: Settings, circuit_id: str) -> Path:
    return settings.home / "full" / f"{circuit_id}.safetensors"


def save(file: Path, graph: FullGraph, asked: CircuitRecord) -> None:
    """Write the graph and what was asked; a kill leaves the old file or none."""
    tensors = {
        "features": graph.features,
        "activations": graph.activations,
        "logit_token_ids": graph.logit_token_ids,
        "logit_probabilities": graph.logit_probabilities,
        "logit_layers": np.asarray(graph.logit_layers),
        "logit_positions": np.asarray(graph.logit_positions),
        "explained_features": graph.explained_features,
        "computed": np.asarray(graph.computed),
        "matrix.data": graph.matrix.data,
        "matrix.indices": graph.matrix.indices,
        "matrix.indptr": graph.matrix.indptr,
        "constants": graph.constants,
        "pre_activations": graph.pre_activations,
    }
    metadata = {
        "version": VERSION,
        "order": json.dumps(asdict(graph.order)),
        "token_ids": json.dumps(graph.token_ids),
        "logit_targets": json.dumps([_plain(spec) for spec in graph.logit_targets]),
        "explained_variance": repr(float(graph.explained_variance)),
        "asked": asked.model_dump_json(),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, fresh, metadata=metadata)
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)


def load(file: Path) -> tuple[FullGraph, CircuitRecord]:
    """Raises NotFound when it was not kept, InputRejected when the file is damaged."""
    if not file.is_file():
        raise NotFound(
            f"The full graph of {file.stem} was not kept on this machine.",
            "Trace again with --keep-full; then it can be pruned as often as you like. An imported circuit is as its file was.",
        )
    try:
        with safe_open(file, framework="numpy") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  not a dict
        if metadata["version"] != VERSION:
            raise ValueError(f"version {metadata['version']}")
        order = NodeOrder(**json.loads(metadata["order"]))
        matrix = sparse.csr_array(
            (tensors.pop("matrix.data"), tensors.pop("matrix.indices"), tensors.pop("matrix.indptr")),
            shape=(order.size, order.size),
        )
        graph = FullGraph(
            order=order,
            token_ids=json.loads(metadata["token_ids"]),
            matrix=matrix,
            arrays={},
            explained_variance=float(metadata["explained_variance"]),
            logit_targets=[_spec(plain) for plain in json.loads(metadata["logit_targets"])],
            **tensors,
        )
        return graph, CircuitRecord.model_validate_json(metadata["asked"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise InputRejected(f"The full graph {file} is damaged.", "Trace again with --keep-full.") from error


def _plain(spec: TargetSpec) -> dict:
    return {"kind": spec.kind, "what": spec.what, "position": spec.position, "tokens": spec.tokens}


def _spec(plain: dict) -> TargetSpec:
    return TargetSpec(plain["kind"], plain["what"], plain["position"], tuple(plain["tokens"]))
