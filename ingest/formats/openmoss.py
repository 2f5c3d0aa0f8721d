"""Dialect E: OpenMOSS Language-Model-SAEs, with attention features (lorsa) beside transcoder features.

Layers are doubled, attention 2k and MLP 2k+1, and stay so here: a feature's key has no site, and undoubled layers would
make one feature of an attention and an MLP feature of the same index. The embedding layer is -1. The prompt's token list
may be shorter than the positions.
"""

from __future__ import annotations

from typing import Any

from atlas.circuit import Method
from ingest.formats.dialect import Dialect, usual_kind
from ingest.formats.document import Document

_KINDS = {
    "lorsa": ("feature", "attn"),
    "lorsa error": ("error", "attn"),
    "cross layer transcoder": ("feature", "mlp"),
    "mlp reconstruction error": ("error", "mlp"),
}


def _kind(feature_type: str, node: dict[str, Any]) -> tuple[str, str]:
    return _KINDS.get(feature_type) or usual_kind(feature_type, node)


def _method(document: Document) -> Method:
    return Method(weight_unit="as in the file (openmoss)", parameters={"layers": "attention 2k, MLP 2k+1"})


DIALECT = Dialect("openmoss", encodings=("plain", "cantor"), kind_of=_kind, method=_method, logit_layer_offset=0)
