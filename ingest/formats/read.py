"""Read one graph file of any dialect, or a circuit file, into a circuit with its annotations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from atlas import circuit_file
from atlas.circuit import Circuit, CircuitRecord, Example, Nodes, Provenance, Scores, Target
from atlas.errors import AtlasError, InputRejected
from atlas.records import Annotations
from atlas.settings import Settings, load_settings
from ingest.formats.block import KEY, Block
from ingest.formats.detect import detect
from ingest.formats.dialect import Dialect
from ingest.formats.document import Document, plain, read_document, section, text
from ingest.formats.files import read_bytes
from ingest.formats.links import AMBIGUOUS, read_links
from ingest.formats.logit_text import parse_logit
from ingest.formats.names import read_names
from ingest.formats.nodes import NodeTable, number, read_nodes
from ingest.formats.scores import score_file
from ingest.formats.view import read_annotations

_MAX_KEPT_METADATA = 256 * 1024  # bytes of a file's own metadata that go with the record


@dataclass
class ImportedGraph:
    """`dialect` is `circuit` for circuit files; `mended` counts what was put right, by name, zero counts left out."""

    circuit: Circuit
    annotations: Annotations
    dialect: str
    mended: dict[str, int]


def read_graph(source: str | Path | bytes, name: str | None = None, settings: Settings | None = None) -> ImportedGraph:
    """Read a path or the bytes of a file; `name` is used in messages and as the circuit's name when the file has none.

    Raises InputRejected, and nothing else, for a file that cannot be used; `place` says where in it.
    """
    settings = settings or load_settings()
    name = name or ("the graph" if isinstance(source, bytes) else Path(source).name)
    if isinstance(source, (str, Path)) and Path(source).suffix.lower() in (".pt", ".pth"):
        raise _pickle(name)
    data = read_bytes(source, name, settings.import_max_bytes)
    if data[:4] == b"PK\x03\x04" or data[:1] == b"\x80":
        raise _pickle(name)
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data):
        return _read_circuit_file(data, name)
    return _read_json(read_document(data, name))


def _pickle(name: str) -> InputRejected:
    return InputRejected(
        f"{name} is a torch file; it was not opened, because opening it the plain way runs what it holds.",
        "Name it .pt and use `atlas import`, which reads circuit-tracer's graphs without running anything.",
    )


def _read_circuit_file(data: bytes, name: str) -> ImportedGraph:
    try:
        circuit = circuit_file.from_bytes(data, name)
        if not np.isfinite(circuit.edges.weight).all():
            raise InputRejected(
                f"{name} holds a weight that is not a finite number.", "Export it again.", "edges.weight"
            )
    except InputRejected:
        raise
    except AtlasError as error:
        raise InputRejected(error.message, error.hint) from error
    return ImportedGraph(circuit, Annotations(), "circuit", {})


def _read_json(document: Document) -> ImportedGraph:
    dialect = detect(document)
    block = Block.read(document.metadata)
    table = read_nodes(document, dialect, block.identity if block else lambda node: None)
    links = read_links(document, table, ours=block is not None)
    extra = {AMBIGUOUS: links.ambiguous.astype(np.uint8)} if links.ambiguous.any() else {}
    circuit = block.restore(document.metadata, table, links.edges, extra) if block else None
    if block and circuit is None:
        document.mended["edited_after_export"] += 1
    if circuit is None:
        circuit = Circuit(_record(document, dialect, table, block), table.nodes, links.edges, extra)
    annotations = read_annotations(document, dialect, table, circuit, block)
    circuit = _scored(document, circuit, block)
    mended = {key: count for key, count in sorted(document.mended.items()) if count}
    earlier = circuit.record.provenance
    provenance = earlier.model_copy(update={"mended": earlier.mended | mended})
    return ImportedGraph(circuit.with_record(provenance=provenance), annotations, dialect.name, mended)


def _record(document: Document, dialect: Dialect, table: NodeTable, block: Block | None) -> CircuitRecord:
    metadata = document.metadata
    model, transcoders = read_names(metadata)
    if dialect.logit_layer_offset is not None and table.layers:
        model = model.model_copy(update={"layers": table.layers})
    tokens = _tokens(document, table.nodes)
    prompt = text(metadata.get("prompt")) or "".join(tokens)
    method = dialect.method(document)
    settings = plain(section(metadata.get("generation_settings")))
    method = method.model_copy(update={"parameters": settings | method.parameters})
    if block and block.record and block.names_hold(metadata):
        model, transcoders, method = block.record.model, block.record.transcoders, block.record.method
    return CircuitRecord(
        name=text(metadata.get("slug")).strip() or _stem(document.name),
        prompt=prompt,
        examples=[Example(tokens=tokens, token_ids=_token_ids(table.nodes, len(tokens)), text=prompt)],
        targets=_targets(table),
        model=model,
        transcoders=transcoders,
        method=method,
        thresholds=_thresholds(metadata),
        provenance=_provenance(document, dialect),
    )


def _stem(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".json") or name


def _tokens(document: Document, nodes: Nodes) -> list[str]:
    given = document.metadata.get("prompt_tokens")
    if not isinstance(given, list):
        document.mended["missing_prompt_tokens"] += 1
        given = []
    tokens = [item if isinstance(item, str) else orjson.dumps(plain(item)).decode() for item in given]
    document.mended["tokens_not_text"] += sum(not isinstance(item, str) for item in given)
    document.mended["positions_beyond_tokens"] += int((nodes.position >= len(tokens)).sum())
    return tokens


def _token_ids(nodes: Nodes, count: int) -> list[int] | None:
    """Vocabulary ids by position out of the token nodes, None unless every position has one."""
    rows = np.flatnonzero(nodes.is_kind("token") & (nodes.index >= 0))
    known = dict(zip(nodes.position[rows].tolist(), nodes.index[rows].tolist(), strict=True))
    return [known[i] for i in range(count)] if count and all(i in known for i in range(count)) else None


def _targets(table: NodeTable) -> list[Target]:
    nodes = table.nodes
    return [
        Target(
            what=parse_logit(text(table.raw[row].get("clerp")))[0] or text(table.raw[row].get("token")),
            token_id=int(nodes.index[row]),
            position=int(nodes.position[row]),
            probability=None if np.isnan(nodes.probability[row]) else float(nodes.probability[row]),
        )
        for row in np.flatnonzero(nodes.is_kind("logit")).tolist()
    ]


def _thresholds(metadata: dict[str, Any]) -> dict[str, float | None]:
    """The pruning that was done; where the display threshold beside it disagrees, `pruning_settings` is what counts."""
    pruning = section(metadata.get("pruning_settings"))
    display = next((metadata[key] for key in ("node_threshold", "nodeThreshold") if key in metadata), None)
    told = {"node": pruning.get("node_threshold", display), "edge": pruning.get("edge_threshold")}
    return {key: number(value) for key, value in told.items() if not np.isnan(number(value))}


def _provenance(document: Document, dialect: Dialect) -> Provenance:
    info = section(document.metadata.get("info"))
    generator = section(info.get("generator"))
    versions = {text(generator.get("name")): text(generator.get("version"))} if text(generator.get("name")) else {}
    kept = {key: value for key, value in document.metadata.items() if key not in (KEY, "prompt_tokens", "prompt")}
    view = {key: value for key, value in document.view.items() if key in ("linkType", "clickedId", "sg_pos")}
    kept = plain(kept | ({"saved_view": view} if any(view.values()) else {}))
    if len(orjson.dumps(kept)) > _MAX_KEPT_METADATA:
        document.mended["metadata_not_kept"] += 1
        kept = {}
    return Provenance(
        created_by=text(info.get("creator_name")) or "unknown",
        created_at=_time(info.get("create_time_ms")),
        versions=versions,
        source_file=document.name,
        source_dialect=dialect.name,
        source_metadata=kept,
    )


def _time(milliseconds: Any) -> str:
    seconds = number(milliseconds) / 1000
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return ""


def _scored(document: Document, circuit: Circuit, block: Block | None) -> Circuit:
    """Our scores on the file's graph beside what it claims; influence where nothing better is known."""
    found = score_file(circuit.nodes, circuit.edges)
    document.mended["influence_not_converged"] += not found.converged
    claimed = block.claims() if block else {}
    for name in ("replacement", "completeness"):
        if not np.isnan(value := number(document.metadata.get(f"{name}_score"))):
            claimed[name] = value
    scores = Scores(
        replacement=found.replacement,
        completeness=found.completeness,
        computed_on="file" if found.replacement is not None or found.completeness is not None else "none",
        claimed=claimed,
    )
    if np.isnan(circuit.nodes.influence).all():
        nodes = Nodes(None, **circuit.nodes.columns() | {"influence": found.influence})
        circuit = replace(circuit, nodes=nodes, extra=circuit.extra)
    return circuit.with_record(scores=scores)
