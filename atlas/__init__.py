"""Circuit Atlas: keeps, searches and compares attribution graphs of language models. `from atlas import Atlas`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlas.api import Atlas as Atlas

try:
    __version__ = version("circuit-atlas")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["Atlas", "__version__"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `import atlas.circuit` does not pull in the database libraries.
    if name == "Atlas":
        from atlas.api import Atlas

        return Atlas
    raise AttributeError(f"module 'atlas' has no attribute {name!r}")
