"""Dialect A: graphs of Anthropic's own frontend (Haiku, 18L).

`feature` is an opaque number, the key of a feature file; the same number may recur at several layers. Saved views name
nodes by jsNodeId. The logits' layer varies from graph to graph, so it is always recomputed. Numbers of embeddings are
not known to be vocabulary ids. The weights' scale is not documented, so they are never pooled with another method's.
"""

from __future__ import annotations

from typing import Any

from atlas.circuit import Method
from ingest.formats.dialect import Dialect, usual_kind
from ingest.formats.document import Document


def _kind(feature_type: str, node: dict[str, Any]) -> tuple[str, str]:
    if feature_type == "unexplored node":
        return ("token", "") if node.get("layer") in ("E", -1, "-1") else ("feature", "")
    return usual_kind(feature_type, node)


def _method(document: Document) -> Method:
    return Method(weight_unit="as in the file (anthropic)")


DIALECT = Dialect(
    "anthropic",
    encodings=("plain",),
    kind_of=_kind,
    method=_method,
    logit_layer_offset=None,
    tokens_have_vocabulary_ids=False,
)
