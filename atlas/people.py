"""Accounts, roles, tokens, the audit log, and what is new since one's last visit."""

from __future__ import annotations

from atlas.base import AtlasBase


class PeopleVerbs(AtlasBase):
    """Accounts, roles, tokens, the audit log, and what is new since one's last visit."""
