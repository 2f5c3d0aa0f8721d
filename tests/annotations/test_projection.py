"""What people say reaches the graph store, and a rebuild from the catalog gives the same graph."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from atlas import Atlas
from atlas.settings import Settings
from tests.conftest import make_circuit
from tests.graph_content import graph_content

KEY = "toy/toy-set/0/6"
TAGGED = "MATCH (c:Circuit) WHERE $tag IN c.tags RETURN c.name"


@pytest.fixture
def atlas(store_pair: Settings) -> Iterator[Atlas]:
    with Atlas.open(settings=store_pair) as opened:
        yield opened


def content(atlas: Atlas) -> dict:
    tags = atlas.cypher("MATCH (c:Circuit) RETURN c.id, c.tags ORDER BY c.id").rows
    return graph_content(atlas) | {"tags": tags}


def test_names_tags_and_supernodes_can_be_asked_for_in_cypher(atlas: Atlas) -> None:
    circuit = make_circuit()
    atlas.add(circuit)
    assert atlas.cypher("MATCH (c:Circuit) RETURN c.tags").rows == [[[]]]
    name = atlas.annotate(circuit.id, "name", "Dallas")
    for tag in ("b", "a"):
        atlas.annotate(circuit.id, "tag", tag)
    group = atlas.annotate(circuit.id, "supernode", "Texas", nodes=circuit.keys[1:3])

    assert atlas.cypher("MATCH (c:Circuit) RETURN c.name, c.tags").rows == [["Dallas", ["a", "b"]]]
    assert atlas.cypher(TAGGED, {"tag": "a"}).rows == [["Dallas"]]
    members = (
        "MATCH (:Circuit {name: 'Dallas'})-[:HAS_SUPERNODE]->(s)-[:GROUPS]->(n) RETURN s.name, n.idx ORDER BY n.idx"
    )
    assert atlas.cypher(members).rows == [["Texas", 6], ["Texas", 7]]

    atlas.undo(name.id)
    atlas.remove_annotation(group.id)
    assert atlas.cypher("MATCH (c:Circuit) RETURN c.name").rows == [[circuit.record.name]]
    assert atlas.cypher("MATCH (s:Supernode) RETURN s").rows == []
    assert atlas.show(circuit.id).status == "ready"


def test_a_rebuild_gives_the_same_graph_after_every_kind_of_entry(atlas: Atlas) -> None:
    circuit, other = make_circuit(), make_circuit("c d")
    for each in (circuit, other):
        atlas.add(each)
    atlas.annotate(circuit.id, "name", "Dallas")
    tag = atlas.annotate(circuit.id, "tag", "a")
    atlas.annotate(circuit.id, "supernode", "Texas", nodes=circuit.keys[1:3])
    first = atlas.annotate(f"feature:{KEY}", "name", "a town")
    gone = atlas.annotate("feature:toy/toy-set/1/7", "name", "a colour")
    atlas.change_annotation(first.id, "a town in Texas")
    for undone in (tag, gone):
        atlas.undo(undone.id)
    atlas.annotate(other.id, "tag", "z")
    before = content(atlas)
    assert [(row[0], row[4]) for row in before["features"]] == [(KEY, "a town in Texas"), ("toy/toy-set/1/7", None)]

    atlas.rebuild()
    assert content(atlas) == before

    atlas.delete(other.id)
    atlas.delete(circuit.id)
    atlas.add(circuit)
    after = content(atlas)
    assert [row[:2] for row in after["circuits"]] == [(circuit.id, "Dallas")]
    assert (after["tags"], len(after["supernodes"])) == ([[circuit.id, []]], 2)
    atlas.rebuild()
    assert content(atlas) == after


def test_a_name_is_found_by_search_and_not_when_it_is_undone(atlas: Atlas) -> None:
    circuit = make_circuit()
    atlas.add(circuit)
    row = atlas.annotate(f"feature:{KEY}", "name", "Texan rivers")
    assert [hit.feature for hit in atlas.search("rivers")] == [KEY]
    undone = atlas.undo(row.id)
    assert atlas.search("rivers") == []
    atlas.undo(undone.id)
    assert [hit.feature for hit in atlas.search("rivers")] == [KEY]


def test_a_feature_that_nothing_holds_any_more_leaves_the_graph(atlas: Atlas) -> None:
    circuit = make_circuit()
    atlas.add(circuit)
    row = atlas.annotate(f"feature:{KEY}", "name", "a town")
    atlas.delete(circuit.id)
    assert [each[0] for each in content(atlas)["features"]] == [KEY]
    atlas.undo(row.id)
    before = content(atlas)
    assert before["features"] == []
    atlas.rebuild()
    assert content(atlas) == before


def test_markup_and_cypher_in_texts_are_data(atlas: Atlas) -> None:
    evil = "<script>alert(1)</script>'}) MATCH (n) DETACH DELETE n //`"
    circuit = make_circuit()
    atlas.add(circuit)
    for kind in ("name", "tag", "note"):
        atlas.annotate(circuit.id, kind, evil)
    atlas.annotate(circuit.id, "supernode", evil, nodes=[circuit.keys[1]])
    atlas.collect(evil, [circuit.id])
    assert atlas.cypher("MATCH (c:Circuit)-[:HAS_SUPERNODE]->(s) RETURN c.name, c.tags, s.name").rows == [
        [evil, [evil.lower()], evil]
    ]
    assert atlas.cypher("MATCH (k:Collection) RETURN k.name").rows == [[evil]]
