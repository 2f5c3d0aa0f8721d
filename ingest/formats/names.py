"""Model and transcoder-set names out of a graph file's `scan` and its friends.

`scan` is a model id (`gemma-2-2b`), a hub repository of transcoders (`org/repo//subdir@revision`), a run name of
Anthropic's, a local path or `custom-<hash>` (different in every process). A path and a process-made hash are no names.
"""

from __future__ import annotations

import re
from typing import Any

from atlas.circuit import UNKNOWN, ModelRef, SetRef
from ingest.formats.document import section, text

_LOCAL = re.compile(r"^(\.{0,2}[/\\]|~|[A-Za-z]:[/\\]|\.+$)")
_CUSTOM = re.compile(r"^custom-+\d+$")
# A model's family, version and size as repositories of transcoders spell them inside their own name.
_MODEL_IN_NAME = re.compile(r"(gemma-\d+(?:\.\d+)?-\d+(?:\.\d+)?[bm]|(?:llama|qwen)-?\d+(?:\.\d+)?-\d+(?:\.\d+)?[bm])")
_MODEL_OF_SET = {"mntss/gemma-scope-transcoders": "gemma-2-2b"}  # its name says no size


def read_names(metadata: dict[str, Any]) -> tuple[ModelRef, SetRef]:
    """(model, transcoder set); `unknown` where the file does not say."""
    info, details = section(metadata.get("info")), section(metadata.get("feature_details"))
    scan = text(metadata.get("scan")).strip()
    told = [
        text(info.get("transcoder_set")),
        text(info.get("neuronpedia_source_set")),
        text(details.get("neuronpedia_source_set")),
        text(metadata.get("sae_series")),
    ]
    parts = metadata.get("transcoder_list")
    if isinstance(parts, list):
        told.append(",".join(part for part in parts if isinstance(part, str)))
    model = UNKNOWN
    if scan and not _CUSTOM.match(scan) and not _LOCAL.match(scan):
        if "/" in scan:
            told.append(scan)
        else:
            model = scan
    name = next((name.strip() for name in told if name.strip() and not _LOCAL.match(name.strip())), UNKNOWN)
    name, _, revision = name.partition("@")
    if model == UNKNOWN:
        model = _model_of_set(name)
    return ModelRef(name=model), SetRef(name=name or UNKNOWN, revision=revision or UNKNOWN)


def _model_of_set(name: str) -> str:
    found = _MODEL_IN_NAME.search(name.lower())
    return _MODEL_OF_SET.get(name) or (found[1] if found else UNKNOWN)
