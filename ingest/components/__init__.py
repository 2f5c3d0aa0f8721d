"""Circuits of attention heads and MLPs, found by patching: what a model without transcoders can still be asked.

Words are those of `atlas.causal_records`: clean and corrupted prompts, noising and denoising. Names are looked up on first use,
so that reading files of prompt pairs needs no torch. No module here may have the name of one of them: importing it would bind that name.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "component_circuit": "ingest.components.circuit",
    "faithfulness": "ingest.components.faithfulness_curves",
    "make_cases": "ingest.components.pairs",
    "make_pairs": "ingest.components.templates",
    "patch": "ingest.components.patching",
    "read_pairs": "ingest.components.pair_files",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'ingest.components' has no attribute {name!r}") from None
    return getattr(import_module(home), name)
