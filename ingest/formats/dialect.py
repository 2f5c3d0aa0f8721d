"""What differs between dialects. One instance per dialect, each in its own file; `detect.py` chooses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from atlas.circuit import KINDS, SITES, Method
from ingest.formats.document import Document

# feature_type (lower case) -> (kind, site). An open list: what is not here becomes `unknown` and is counted.
KIND_OF_TYPE: dict[str, tuple[str, str]] = {
    "cross layer transcoder": ("feature", ""),
    "per layer transcoder": ("feature", ""),
    "transcoder": ("feature", ""),
    "feature": ("feature", ""),
    "mlp reconstruction error": ("error", ""),
    "error": ("error", ""),
    "embedding": ("token", ""),
    "logit": ("logit", ""),
    "bias": ("bias", ""),
    "lorsa": ("feature", "attn"),
    "lorsa error": ("error", "attn"),
}
# What our own exporter writes for kinds that circuit-tracer does not have: `head`, `resid.pre`.
KIND_OF_TYPE |= {kind: (kind, "") for kind in KINDS if kind not in KIND_OF_TYPE}
KIND_OF_TYPE |= {f"{kind}.{site}": (kind, site) for kind in KINDS for site in SITES if site}


def usual_kind(feature_type: str, node: dict[str, Any]) -> tuple[str, str]:
    return KIND_OF_TYPE.get(feature_type, ("unknown", ""))


def usual_method(document: Document) -> Method:
    return Method()


@dataclass(frozen=True)
class Dialect:
    """`name` is what a result shows. `encodings` are the ways in which `feature` may be coded, the most likely first:
    `cantor` (l+i)(l+i+1)/2+i, `hundred_thousands` layer*100000+index, `plain` the index itself.
    """

    name: str
    encodings: tuple[str, ...] = ("cantor", "hundred_thousands", "plain")
    kind_of: Callable[[str, dict[str, Any]], tuple[str, str]] = usual_kind
    method: Callable[[Document], Method] = usual_method
    logit_layer_offset: int | None = 1  # file's logit layer minus number of layers; None: the file's is never right
    tokens_have_vocabulary_ids: bool = True  # the middle part of an embedding's node_id
    label_source: str = "graph file"
