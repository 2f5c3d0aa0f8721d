"""Collections: named sets of circuits."""

from __future__ import annotations

from atlas.base import AtlasBase


class CollectionVerbs(AtlasBase):
    """Collections: named sets of circuits."""
