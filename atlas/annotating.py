"""Notes, tags, names and supernodes on anything in the atlas: a log in which nothing is overwritten."""

from __future__ import annotations

from atlas.base import AtlasBase


class AnnotationVerbs(AtlasBase):
    """Notes, tags, names and supernodes on anything in the atlas: a log in which nothing is overwritten."""
