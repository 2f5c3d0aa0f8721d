"""Untrusted Cypher on real servers: the same verdicts, limits and values on both."""

from __future__ import annotations

import time

import pytest
from neo4j.exceptions import DriverError, Neo4jError

from atlas.errors import AtlasError, QueryFailed, QueryRefused
from atlas.graph import FeatureRow
from tests.graph.untrusted import HOSTILE, INNOCENT

COUNT = "MATCH (n) OPTIONAL MATCH (n)-[r]->() RETURN count(DISTINCT n), count(r), count(n.x), count(n.label)"


@pytest.fixture
def filled(store, make_circuit, project):
    store.put_circuit(project(make_circuit()))
    store.put_features([FeatureRow("toy/toy-set/0/6", "a town in Texas", 0.9, [1, 0, 0, 0])])
    return store


def ask(store, query, params=None, limit=20, timeout=10.0):
    return store.read(query, params, limit=limit, timeout=timeout)


def verdict(store, query):
    try:
        ask(store, query)
    except AtlasError as error:
        return type(error)
    return None


def test_hostile_texts_are_refused_and_change_nothing(filled):
    before = ask(filled, COUNT).rows

    for name, query in HOSTILE.items():
        assert verdict(filled, query) is QueryRefused, name

    assert ask(filled, COUNT).rows == before


def test_the_server_holds_the_line_behind_the_guard(filled):
    """The same texts sent past the guard's reading of the text, as its reader: still nothing is written or read."""
    before = ask(filled, COUNT).rows
    connection, lines = filled._connection, []

    for query in HOSTILE.values():
        try:
            with connection.dialect.open_read(connection, query, {}, 10.0) as answer:
                lines += [row for row in answer.data() if "root:" in str(row)]
        except (AtlasError, Neo4jError, DriverError):
            continue

    assert lines == []  # /etc/passwd stays unread
    assert ask(filled, COUNT).rows == before


def test_innocent_texts_run(filled):
    for name, query in INNOCENT.items():
        try:
            ask(filled, query, {"set": "x"})
        except AtlasError as error:
            pytest.fail(f"{name}: {error}")


def test_no_more_rows_than_wanted_come_and_more_are_told(filled):
    query = "UNWIND range(1, 5) AS x RETURN x"

    assert ask(filled, query, limit=5).model_dump() == {
        "columns": ["x"],
        "rows": [[1], [2], [3], [4], [5]],
        "truncated": False,
    }
    assert ask(filled, query, limit=4).rows == [[1], [2], [3], [4]]
    assert ask(filled, query, limit=4).truncated
    union = ask(filled, "UNWIND [1, 1, 1, 2] AS x RETURN x UNION UNWIND [2, 3] AS x RETURN x", limit=3)
    assert (sorted(union.rows), union.truncated) == ([[1], [2], [3]], False)


def test_a_huge_answer_stops_at_the_row_limit_in_no_time(filled):
    begin = time.monotonic()

    answer = ask(filled, "UNWIND range(1, 100000) AS a UNWIND range(1, 10000) AS b RETURN a, b", limit=100)

    assert (len(answer.rows), answer.truncated) == (100, True)
    assert time.monotonic() - begin < 8


def test_a_slow_query_is_stopped_in_time(filled):
    begin = time.monotonic()

    with pytest.raises(QueryFailed, match="stopped after 1 seconds"):
        ask(
            filled,
            "UNWIND range(1, 100000) AS a UNWIND range(1, 100000) AS b WITH a WHERE a * b = -1 RETURN a",
            timeout=1,
        )

    assert time.monotonic() - begin < 20
    assert ask(filled, "RETURN 1 AS x").rows == [[1]]


def test_an_error_in_a_query_is_one_sentence(filled):
    for query in (
        "MATCH (n RETURN n)",
        "MATCH (n) RETURN m",
        "RETRUN 1",
        "RETURN $missing",
        "RETURN 1 / 0",
        "RETURN foo(1)",
        "MATCH (n) RETURN n.x +",
    ):
        with pytest.raises(QueryFailed) as caught:
            ask(filled, query)
        assert "\n" not in str(caught.value), query
        assert "neo4j_code" not in str(caught.value), query


def test_values_come_as_json_has_them(filled):
    answer = ask(
        filled,
        "MATCH p = (a:Node {kind: 'token'})-[e:ATTRIBUTES]->(b) RETURN a.token AS t, e, p, 0.0 / 0.0 AS nan, "
        "1.0 / 0 AS inf, date('2026-01-02') AS d, duration('P1DT2H') AS u, $p AS p2, null AS nothing",
        {"p": {"list": [1, 2.5, None, True], "text": "é"}},
    )

    token, edge, path, nan, inf, date, duration, given, nothing = answer.rows[0]
    assert token == "a"
    properties = {"weight": 0.5, "share": 0.5, "slot": "direct", "evidence": "untested"}
    assert edge == {"type": "ATTRIBUTES", "properties": properties}
    assert [node["labels"] for node in path["nodes"]] == [["Node"], ["Node"]]
    assert (path["relationships"][0]["start"], path["relationships"][0]["end"]) == (0, 1)
    assert (nan, inf, date, duration, nothing) == (None, None, "2026-01-02", "P1DT2H", None)
    assert given == {"list": [1, 2.5, None, True], "text": "é"}


def test_explain_gives_the_plan_and_runs_nothing(filled):
    answer = ask(filled, "EXPLAIN MATCH (c:Circuit) RETURN c.name")

    assert answer.columns == ["plan"]
    assert any("Circuit" in row[0] for row in answer.rows)
