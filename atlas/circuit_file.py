"""The binary form of a circuit: one safetensors blob, readable by numpy alone (docs/circuit-file.md).

Readers are chosen by `schema_version`; a version newer than known is refused, blobs are never rewritten.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import save

from atlas.circuit import (
    EDGE_COLUMNS,
    KINDS,
    NODE_COLUMNS,
    SITES,
    SLOTS,
    Circuit,
    CircuitRecord,
    Edges,
    Nodes,
)
from atlas.edges import check_parts
from atlas.errors import InputRejected, SchemaMismatch

SCHEMA_VERSION = 1


def to_bytes(circuit: Circuit) -> bytes:
    """Serialise. Tensors `nodes.*`, `edges.*` and the optional extra ones; everything else is JSON in the metadata."""
    tensors = {f"nodes.{name}": column for name, column in circuit.nodes.columns().items()}
    tensors |= {f"edges.{name}": column for name, column in circuit.edges.columns().items()}
    tensors |= {name: np.ascontiguousarray(array) for name, array in circuit.extra.items()}
    metadata = {
        "schema_version": str(SCHEMA_VERSION),
        "kinds": json.dumps(KINDS),
        "sites": json.dumps(SITES),
        "slots": json.dumps(SLOTS),
        "record": circuit.record.model_dump_json(),
    }
    return save(tensors, metadata=metadata)


def from_bytes(blob: bytes, source: str = "circuit") -> Circuit:
    """Read a blob; `source` names it in errors. Raises InputRejected (damaged) or SchemaMismatch (newer version)."""
    metadata, tensors = _open(blob, source)
    version = metadata.get("schema_version", "")
    if not (version.isascii() and version.isdigit() and len(version) < 10):
        raise InputRejected(
            f"{source} is a safetensors file without a circuit schema_version.",
            "Pass a file written by `atlas export --format circuit`.",
        )
    reader = _READERS.get(int(version))
    if reader is None:
        raise SchemaMismatch(
            f"{source} has circuit schema version {version}; this program reads up to {SCHEMA_VERSION}.",
            "Upgrade circuit-atlas.",
        )
    try:
        return reader(metadata, tensors)
    except (KeyError, ValueError, TypeError, ValidationError, RecursionError, AttributeError) as error:
        raise InputRejected(
            f"{source} is not a whole circuit file: {_first_line(error)}.", "Export it again."
        ) from error


def _open(blob: bytes, source: str) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    from safetensors import deserialize

    try:
        header_length = int.from_bytes(blob[:8], "little")
        header = json.loads(blob[8 : 8 + header_length]) if len(blob) >= 8 else None
        if not isinstance(header, dict):
            raise ValueError("no header")
        entries = deserialize(blob)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise InputRejected(
            f"{source} is not a readable safetensors file: {_first_line(error)}.", "Export it again."
        ) from error
    tensors = {}
    for name, entry in entries:
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            raise InputRejected(f"{source}: tensor {name} has dtype {entry['dtype']}.", "Export it again.")
        tensors[name] = np.frombuffer(entry["data"], dtype=dtype).reshape(entry["shape"])
    metadata = header.get("__metadata__") or {}
    return metadata, tensors


_DTYPES = {
    "U8": "<u1",
    "I8": "<i1",
    "U16": "<u2",
    "I16": "<i2",
    "I32": "<i4",
    "U32": "<u4",
    "I64": "<i8",
    "U64": "<u8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "BOOL": "?",
}


def _read_v1(metadata: dict[str, str], tensors: dict[str, np.ndarray]) -> Circuit:
    def recode(name: str, codes: np.ndarray, known: tuple[str, ...]) -> np.ndarray:
        if codes.dtype != np.uint8:
            raise ValueError(f"the codes in {name} are not uint8")
        table = np.array([known.index(word) for word in json.loads(metadata[name])], np.uint8)
        if len(codes) and codes.max() >= len(table):
            raise ValueError(f"a code in {name} is out of range")
        return table[codes]

    columns: dict[str, Any] = {name: tensors.pop(f"nodes.{name}") for name in NODE_COLUMNS}
    columns["kind"] = recode("kinds", columns["kind"], KINDS)
    columns["site"] = recode("sites", columns["site"], SITES)
    edges: dict[str, Any] = {name: tensors.pop(f"edges.{name}") for name in EDGE_COLUMNS}
    edges["slot"] = recode("slots", edges["slot"], SLOTS)
    if any(array.ndim != 1 for array in [*columns.values(), *edges.values()]):
        raise ValueError("a column is not one-dimensional")
    record = CircuitRecord.model_validate_json(metadata["record"])
    circuit = Circuit(record, Nodes(**columns), Edges(**edges), extra=dict(tensors))
    check_parts(circuit.edges, circuit.extra)
    return circuit


_READERS = {1: _read_v1}


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".rstrip(".")
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
