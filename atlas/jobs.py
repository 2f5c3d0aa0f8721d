"""Work for the workers: asking for it, watching it, retrying and cancelling it."""

from __future__ import annotations

from atlas.base import AtlasBase


class JobVerbs(AtlasBase):
    """Work for the workers: asking for it, watching it, retrying and cancelling it."""
