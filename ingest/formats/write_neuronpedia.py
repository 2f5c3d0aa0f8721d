"""Write a circuit as circuit-tracer's schema-1 JSON, the form that Neuronpedia's upload and page take."""

from __future__ import annotations

import math
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import orjson

from atlas.circuit import KINDS, SITES, SLOTS, UNKNOWN, Circuit
from atlas.records import Annotations
from ingest.formats.block import KEY, VERSION, node_fields
from ingest.formats.document import section, text
from ingest.formats.links import AMBIGUOUS
from ingest.formats.logit_text import write_logit
from ingest.formats.nodes import Identity

GENERATOR = "Circuit Atlas"
_INFO_TYPES: dict[str, type | tuple[type, ...]] = {
    "description": str,
    "creator_name": str,
    "creator_url": str,
    "source_urls": list,
    "create_time_ms": (int, float),
}
_GENERATION_TYPES: dict[str, type | tuple[type, ...]] = {
    "max_n_logits": int,
    "desired_logit_prob": (int, float),
    "batch_size": int,
    "max_feature_nodes": int,
}
# What our tracer calls the same settings.
_SAME_SETTING = {"max_logits": "max_n_logits", "logit_mass": "desired_logit_prob", "max_features": "max_feature_nodes"}


def write_neuronpedia(
    circuit: Circuit, annotations: Annotations | None = None, labels: dict[int, str] | None = None
) -> bytes:
    """UTF-8 JSON. `labels` are the current labels by row (written as clerps); `annotations` give supernodes, pins and
    labels with their source. What the format has no field for goes into `metadata.circuit_atlas`, so that reading the
    bytes again gives a circuit of the same id. Numbers that are unknown are null."""
    annotations = annotations or Annotations()
    keys, identities = circuit.keys, _identities(circuit)
    ids = _unique_ids(identities)
    clerps, more, noted = _labels(circuit, ids, annotations, labels or {})
    document = {
        "metadata": _metadata(circuit, ids, keys, noted),
        "qParams": _view(circuit, ids, annotations) | ({"clerps": more} if more else {}),
        "nodes": _nodes(circuit, identities, ids, clerps),
        "links": _links(circuit, ids),
    }
    return orjson.dumps(document)


def _identities(circuit: Circuit) -> list[Identity]:
    n = circuit.nodes
    columns = (n.kind, n.site, n.layer, n.position, n.index)
    return [
        (KINDS[kind], SITES[site], layer, position, index)
        for kind, site, layer, position, index in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _unique_ids(identities: list[Identity]) -> list[str]:
    """circuit-tracer's node ids, with the kind appended where two nodes would share one."""
    ids: list[str] = []
    taken: set[str] = set()
    for identity in identities:
        plain = node_id = node_fields(identity)["node_id"]
        count = 0
        while node_id in taken:
            node_id = f"{plain}_{identity[0]}" + (str(count) if count else "")
            count += 1
        taken.add(node_id)
        ids.append(node_id)
    return ids


def _labels(
    circuit: Circuit, ids: list[str], annotations: Annotations, labels: dict[int, str]
) -> tuple[dict[int, str], list[list[str]], dict[str, list[Any]]]:
    """(clerp by row, further labels as [node id, text], [[text, source, position]] by node id where the origin is known)."""
    clerps = dict(labels)
    more: list[list[str]] = []
    noted: dict[str, list[Any]] = {}
    for label in annotations.labels:
        row = circuit.row_of_key.get(label.node_key)
        if row is None or labels.get(row, label.text) != label.text:
            continue  # a newer label has replaced it
        if clerps.setdefault(row, label.text) != label.text:
            more.append([ids[row], label.text])
        noted.setdefault(ids[row], []).append([label.text, label.source, label.position])
    return clerps, more, noted


def _nodes(
    circuit: Circuit, identities: list[Identity], ids: list[str], clerps: dict[int, str]
) -> list[dict[str, Any]]:
    n = circuit.nodes
    texts = circuit.node_tokens
    activation, cumulative, probability = (
        _optional(column) for column in (n.activation, n.influence_cumulative, n.probability)
    )
    best = max((p for p, i in zip(probability, identities, strict=True) if p and i[0] == "logit"), default=None)
    nodes = []
    for row, identity in enumerate(identities):
        is_logit = identity[0] == "logit"
        share = (probability[row] or 0.0) if is_logit else 0.0
        clerp = write_logit(texts[row], share) if is_logit else clerps.get(row, "")
        rest = {
            "node_id": ids[row],
            "clerp": clerp,
            "influence": cumulative[row],
            "activation": activation[row],
            "token_prob": share,
            "is_target_logit": is_logit and share == best,
            "run_idx": 0,
            "reverse_ctx_idx": 0,
        }
        nodes.append(node_fields(identity) | rest)
    return nodes


def _links(circuit: Circuit, ids: list[str]) -> list[dict[str, Any]]:
    e = circuit.edges
    columns = zip(e.source.tolist(), e.target.tolist(), e.weight.tolist(), e.slot.tolist(), strict=True)
    links: list[dict[str, Any]] = [
        {"source": ids[source], "target": ids[target], "weight": weight} | ({"slot": SLOTS[slot]} if slot else {})
        for source, target, weight, slot in columns
    ]
    for i in np.flatnonzero(circuit.extra.get(AMBIGUOUS, ())).tolist():
        links[i]["ambiguous"] = True
    return links


def _view(circuit: Circuit, ids: list[str], annotations: Annotations) -> dict[str, Any]:
    saved = section(circuit.record.provenance.source_metadata.get("saved_view"))

    def members(keys: list[str], unresolved: list[str]) -> list[str]:
        return [ids[row] for key in keys if (row := circuit.row_of_key.get(key)) is not None] + unresolved

    return {
        "linkType": text(saved.get("linkType")) or "both",
        "pinnedIds": members(annotations.pins, annotations.unresolved_pins),
        "clickedId": text(saved.get("clickedId")),
        "supernodes": [[group.name, *members(group.node_keys, group.unresolved)] for group in annotations.supernodes],
        "sg_pos": text(saved.get("sg_pos")),
    }


def _metadata(circuit: Circuit, ids: list[str], keys: list[str], noted: dict[str, list[Any]]) -> dict[str, Any]:
    record, n = circuit.record, circuit.nodes
    source = record.provenance.source_metadata
    info = _typed(section(source.get("info")), _INFO_TYPES)
    info["generator"] = {"name": GENERATOR, "version": _own_version()}
    if record.transcoders.name != UNKNOWN:
        info["transcoder_set"] = record.transcoders.name
    node, edge = record.thresholds.get("node"), record.thresholds.get("edge")
    parameters = {_SAME_SETTING.get(key, key): value for key, value in record.method.parameters.items()}
    columns = zip(*(_optional(column) for column in (n.influence, n.input_total, n.input_abs_total)), strict=True)
    metadata: dict[str, Any] = {
        "slug": record.name or circuit.id,
        "scan": record.model.name,
        "transcoder_list": [],
        "prompt_tokens": circuit.tokens,
        "prompt": record.prompt,
        "schema_version": 1,
        "info": info,
        "generation_settings": _typed(parameters, _GENERATION_TYPES),
        "pruning_settings": {
            name: value for name, value in (("node_threshold", node), ("edge_threshold", edge)) if value is not None
        },
        KEY: {
            "version": VERSION,
            "id": circuit.id,
            "record": record.model_dump(mode="json"),
            "nodes": {i: [key, *numbers] for i, key, numbers in zip(ids, keys, columns, strict=True)},
            "labels": noted,
        },
    }
    if node is not None:
        metadata["node_threshold"] = node
    if details := section(source.get("feature_details")):
        metadata["feature_details"] = {key: value for key, value in details.items() if isinstance(value, str)}
    return metadata


def _typed(given: dict[str, Any], types: dict[str, type | tuple[type, ...]]) -> dict[str, Any]:
    """Only entries of the type that Neuronpedia's schema wants."""
    return {
        key: given[key] for key, kind in types.items() if isinstance(given.get(key), kind) and given[key] is not True
        and given[key] is not False
    }  # fmt: skip


def _optional(column: np.ndarray) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in column.tolist()]


def _own_version() -> str:
    try:
        return version("circuit-atlas")
    except PackageNotFoundError:
        return "unknown"
