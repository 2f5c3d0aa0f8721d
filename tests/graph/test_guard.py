"""The decision about untrusted Cypher from its text alone; no server."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.errors import QueryFailed, QueryRefused
from atlas.graph.guard import guard
from tests.graph.untrusted import HOSTILE, INNOCENT


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_is_refused_without_asking_a_server(name):
    with pytest.raises(QueryRefused):
        guard(HOSTILE[name], {}, 10)


@pytest.mark.parametrize("name", INNOCENT)
def test_an_innocent_text_passes(name):
    assert guard(INNOCENT[name], {}, 10).text


@pytest.mark.parametrize(
    ("query", "sent"),
    [
        ("RETURN 1 AS x", "RETURN 1 AS x\nLIMIT 7\n"),
        ("RETURN 1 AS x // c", "RETURN 1 AS x\nLIMIT 7\n"),
        ("RETURN 1 AS x LIMIT 3", "RETURN 1 AS x LIMIT 3"),
        ("RETURN 1 AS x LIMIT 300", "RETURN 1 AS x LIMIT 7"),
        ("RETURN 1 AS x LIMIT $few", "RETURN 1 AS x LIMIT $few"),
        ("RETURN 1 AS x LIMIT $many", "RETURN 1 AS x LIMIT 7"),
        ("RETURN 1 AS limit", "RETURN 1 AS limit\nLIMIT 7\n"),
        ("MATCH (n) RETURN n.limit", "MATCH (n) RETURN n.limit\nLIMIT 7\n"),
        ("CALL { RETURN 1 AS x LIMIT 2 } RETURN x", "CALL { RETURN 1 AS x LIMIT 2 } RETURN x\nLIMIT 7\n"),
        ("CALL db.labels()", "CALL db.labels()"),
        (
            "RETURN 1 AS x UNION RETURN 2 AS x",
            "RETURN DISTINCT 1 AS x\nLIMIT 7\n UNION RETURN DISTINCT 2 AS x\nLIMIT 7\n",
        ),
        ("RETURN 1 AS x UNION ALL RETURN 2 AS x", "RETURN 1 AS x\nLIMIT 7\n UNION ALL RETURN 2 AS x\nLIMIT 7\n"),
    ],
)
def test_the_server_is_asked_for_no_more_rows_than_wanted(query, sent):
    assert guard(query, {"few": 2, "many": 100}, 7).text == sent


@pytest.mark.parametrize("query", ["", "  ", "// nothing", "EXPLAIN", ";"])
def test_a_text_without_a_query_is_one_sentence(query):
    with pytest.raises(QueryFailed, match="empty"):
        guard(query, {}, 10)


@pytest.mark.parametrize("query", ["RETURN 'open", "RETURN `open", "RETURN 1 /* open", "RETURN (1", "RETURN 1)"])
def test_what_is_not_closed_is_named(query):
    with pytest.raises(QueryFailed, match=r"closed|match"):
        guard(query, {}, 10)


@given(st.text(alphabet="abSET CREATE()[]{}'\"`\\/*.:,;$|=-\n\r\u2028u0027", max_size=40))
def test_any_text_gets_an_answer_and_never_a_crash(text):
    with suppress(QueryRefused, QueryFailed):
        guard(text, {}, 10)


@given(st.text(max_size=30), st.sampled_from(["'", '"']))
def test_no_string_can_hide_or_feign_a_clause(content, quote):
    inside = content.replace("\\", "\\\\").replace(quote, "\\" + quote)
    if "\\u" not in inside.lower():  # such escapes could be read in two ways
        guard(f"RETURN {quote}{inside}{quote} AS x", {}, 10)
    with pytest.raises(QueryRefused):
        guard(f"MATCH (n) WHERE n.x = {quote}{inside}{quote} SET n.x = 1", {}, 10)
