"""Everything that produces circuits and labels: `from ingest import trace, import_paths, label_features`.

Names are looked up on first use, so that importing graph files needs no torch.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "trace": "ingest.trace",
    "import_paths": "ingest.load",
    "export_bytes": "ingest.load",
    "label_features": "ingest.labels",
    "intervene": "ingest.interventions",
    "verify": "ingest.verification",
    "load_model": "ingest.models",
    "load_transcoders": "ingest.transcoders",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'ingest' has no attribute {name!r}") from None
    module = import_module(home)
    # ingest.trace is a package that can be called (docs/decisions/0003)
    return module if name == "trace" else getattr(module, name)
