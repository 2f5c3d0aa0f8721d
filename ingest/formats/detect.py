"""Which dialect a graph file is in. No single field is trusted: forks drop, copy and misspell them."""

from __future__ import annotations

import re

from atlas.errors import InputRejected
from ingest.formats import anthropic, circuit_tracer, circuit_tracer_0, neuronpedia, neuronpedia_ui, openmoss
from ingest.formats.block import KEY
from ingest.formats.dialect import Dialect
from ingest.formats.document import Document, section, text

_LLAMASCOPIUM_ID = re.compile(r"^\d+_(cro|lor)_\d+_\d+$|^\d+_(error|bias|unknown)_[A-Za-z].*_\d+$")
_ANTHROPIC_JS_ID = re.compile(r"^\w+_\d+_-\d+$")
_SAMPLE = 2000


def detect(document: Document) -> Dialect:
    """The dialect by evidence from the whole file. Raises InputRejected for dialects known but not read yet."""
    metadata, nodes = document.metadata, document.nodes[:_SAMPLE]
    if section(metadata.get(KEY)):
        return neuronpedia.DIALECT  # our own export
    types = {text(node.get("feature_type")).lower() for node in nodes}
    if any(_LLAMASCOPIUM_ID.match(node["node_id"]) for node in nodes) or "qk_only_nodes" in document.top:
        raise _not_yet(document, "llamascopium (CRM) backend")
    if types & {"lorsa", "lorsa error"} or "activation_info" in document.top or "sae_series" in metadata:
        return openmoss.DIALECT
    if "node_sep_threshold" in metadata or _has_unplaced_logits(document):
        raise _not_yet(document, "EleutherAI attribute library")
    if metadata.get("schema_version") is None and "transcoder_list" not in metadata and _is_anthropic(document):
        return anthropic.DIALECT
    if any(
        text(node.get("clerp")).startswith('Emb: "')
        for node in nodes
        if text(node.get("feature_type")).lower() == "embedding"
    ):
        return neuronpedia_ui.DIALECT
    if metadata.get("schema_version") is None:
        return circuit_tracer_0.DIALECT
    if section(metadata.get("info")) or section(metadata.get("generation_settings")):
        return neuronpedia.DIALECT
    return circuit_tracer.DIALECT


def _has_unplaced_logits(document: Document) -> bool:
    """Logits at layer -1 together with a metadata key that only that library writes."""
    if not {"n_layers", "title_prefix"} & set(document.metadata):
        return False
    logits = [node for node in document.nodes if text(node.get("feature_type")).lower() == "logit"]
    return bool(logits) and all(node.get("layer") in ("-1", -1) for node in logits)


def _is_anthropic(document: Document) -> bool:
    if text(document.metadata.get("scan")).startswith("jackl-circuits-runs-"):
        return True
    ids = [text(node.get("jsNodeId")) for node in document.nodes[:_SAMPLE]]
    return bool(ids) and sum(bool(_ANTHROPIC_JS_ID.match(i)) for i in ids) > len(ids) / 2


def _not_yet(document: Document, maker: str) -> InputRejected:
    return InputRejected(
        f"{document.name} is a graph of the {maker}, which is recognised but not read yet.",
        "Export it in circuit-tracer's or Neuronpedia's form.",
    )
