"""Runs untrusted Cypher that guard.py lets through, within its limits, and makes the answer JSON-able.

Values: nodes become {labels, properties}, relationships {type, properties}, paths {nodes, relationships} in order, each
relationship with the positions `start` and `end` of its nodes; times ISO 8601 text, points {srid, coordinates}, bytes
hexadecimal text; NaN and infinities, which JSON has not, null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from neo4j import exceptions as driver
from neo4j import graph, spatial, time

from atlas.errors import QueryFailed, QueryRefused
from atlas.graph.connection import Connection
from atlas.graph.guard import guard
from atlas.graph.trouble import TIMED_OUT, first_line
from atlas.records import CypherResult


def run_untrusted(
    connection: Connection, query: str, params: dict[str, Any], *, limit: int, timeout: float
) -> CypherResult:
    """At most `limit` rows within `timeout` seconds. Raises QueryRefused, QueryFailed or StoreUnavailable."""
    guarded = guard(query, params, limit + 1)
    text = f"EXPLAIN {guarded.text}" if guarded.explain else guarded.text
    connection.refresh()
    with connection.translated():
        try:
            with connection.dialect.open_read(connection, text, params, timeout) as answer:
                columns = list(answer.keys())
                rows: list[list[Any]] = []
                truncated = False
                for record in answer:
                    if len(rows) == limit:
                        truncated = True
                        break
                    rows.append([jsonable(value) for value in record.values()])
                if guarded.explain:
                    plan = plan_lines(answer.consume().plan or {})
                    return CypherResult(columns=["plan"], rows=[[line] for line in plan], truncated=False)
                return CypherResult(columns=columns, rows=rows, truncated=truncated)
        except (driver.Neo4jError, TypeError, ValueError, OverflowError) as error:
            raise _verdict(error, timeout) from error


def _verdict(error: Exception, timeout: float) -> Exception:
    """The sentence for an error of the query itself; errors of the server are returned as they are."""
    if not isinstance(error, driver.Neo4jError):
        return QueryFailed(f"A parameter of the query cannot be sent: {first_line(error)}.", "Use JSON values.")
    code = error.code or ""
    if code in TIMED_OUT or "Terminated" in code or "has been terminated" in str(error):
        return QueryFailed(
            f"The query was stopped after {timeout:g} seconds.",
            "Narrow it, or raise ATLAS_CYPHER_TIMEOUT_SECONDS.",
        )
    if "Forbidden" in code or "AccessMode" in code:
        return QueryRefused("The query is not a pure read: the server refuses it.", "Only reading queries run here.")
    if "OutOfMemory" in code or "OutOfMemory" in str(error):
        return QueryFailed("The query needs more memory than the server has.", "Narrow it.")
    if code.startswith(("Neo.ClientError.Security", "Neo.ClientError.Database", "Neo.TransientError")):
        return error
    return QueryFailed(f"The query failed: {first_line(error)}.", "Mend it and try again.")


def jsonable(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case graph.Node():
            return {"labels": sorted(value.labels), "properties": jsonable(dict(value))}
        case graph.Relationship():
            return {"type": value.type, "properties": jsonable(dict(value))}
        case graph.Path():
            place = {node.element_id: position for position, node in reversed(list(enumerate(value.nodes)))}
            relationships = [
                jsonable(each) | {"start": place.get(start.element_id), "end": place.get(end.element_id)}
                for each in value.relationships
                if (start := each.nodes[0]) is not None and (end := each.nodes[1]) is not None
            ]
            return {"nodes": [jsonable(node) for node in value.nodes], "relationships": relationships}
        case time.DateTime() | time.Date() | time.Time() | time.Duration():
            return value.iso_format()
        case spatial.Point():
            return {"srid": value.srid, "coordinates": [jsonable(float(x)) for x in value]}
        case bytes() | bytearray():
            return bytes(value).hex()
        case Mapping():
            return {str(key): jsonable(each) for key, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return [jsonable(each) for each in value]
        case _:
            return str(value)


def plan_lines(plan: Mapping[str, Any], depth: int = 0) -> list[str]:
    """A query plan as indented lines, from the tree of one server or the text of the other."""
    arguments = plan.get("args") or {}
    text = arguments.get("string-representation")
    if depth == 0 and isinstance(text, str) and text.strip():
        return [line.rstrip() for line in text.splitlines() if line.strip()]
    head = str(plan.get("operatorType", "")).split("@")[0]
    details = str(arguments.get("Details", ""))
    lines = ["  " * depth + f"{head} {details}".strip()]
    for child in plan.get("children") or []:
        lines += plan_lines(child, depth + 1)
    return lines
