"""One suite over both servers: what goes into the graph comes out again."""

from __future__ import annotations

import numpy as np
import pytest

from atlas.circuit import Edges
from atlas.edges import REST, SKIP, STRAIGHT
from atlas.errors import InputRejected, SchemaMismatch, StoreUnavailable
from atlas.graph import FeatureRow, GraphStore, cypher
from atlas.graph import store as store_module
from atlas.records import ImportedSupernode

TOWN, COLOUR = "toy/toy-set/0/6", "toy/toy-set/1/7"


def rows(store, query, **params):
    return store.read(query, params, limit=1000, timeout=30).rows


def census(store):
    """Everything in the graph, without ids of the server: labels and types with their counts."""
    nodes = rows(store, "MATCH (n) WHERE NOT n:Meta RETURN labels(n)[0] AS label, count(*) AS n ORDER BY label")
    edges = rows(store, "MATCH ()-[r]->() RETURN type(r) AS type, count(*) AS n ORDER BY type")
    return nodes, edges


def test_a_circuit_goes_in_and_comes_out_whole(store, make_circuit, project):
    circuit = make_circuit()

    store.put_circuit(project(circuit, supernodes=[ImportedSupernode(name="s", node_keys=[circuit.keys[1], "gone"])]))

    assert store.circuit_ids() == {circuit.id: "ready"}
    assert rows(
        store,
        "MATCH (:Circuit {id: $id})-[:CONTAINS]->(a)-[e:ATTRIBUTES]->(b:Node) "
        "RETURN a.kind, a.token, b.kind, e.weight, e.share ORDER BY e.weight",
        id=circuit.id,
    ) == [
        ["feature", "b", "feature", -1.0, 0.5],
        ["token", "a", "feature", 0.5, 0.5],
        ["feature", "b", "logit", 2.0, 0.5],
    ]
    assert rows(store, "MATCH (n:Node {kind: 'logit'}) RETURN n.key, n.token, n.probability, n.activation") == [
        [f"{circuit.id}/logit/2/1/3", "x", 0.75, None]
    ]
    assert rows(store, "MATCH (:Circuit)-[:HAS_SUPERNODE]->(s)-[:GROUPS]->(n) RETURN s.name, n.idx") == [["s", 6]]
    assert rows(store, "MATCH (c:Circuit) RETURN c.prompt, c.model, c.set, c.method, c.nodes, c.edges, c.verdict") == [
        ["a b", "toy", "toy-set", "attribution", 4, 3, "untested"]
    ]


def opened(circuit, *, edge=1):
    """The circuit with the parts of one edge: straight 0.25, head 2 of layer 1 from two positions, head 0, a skip, the rest."""
    circuit.extra.update(
        {
            "heads.edge": np.full(6, edge, np.uint32),
            "heads.layer": np.array([-1, 1, 1, 1, 1, -1], np.int16),
            "heads.head": np.array([STRAIGHT, 2, 0, 2, SKIP, REST], np.int16),
            "heads.source_position": np.array([1, 0, 0, 1, 1, -1], np.int32),
            "heads.weight": np.array([0.25, -0.75, 0.125, -0.5, -0.0625, -0.0625], np.float32),
        }
    )
    return circuit


def test_the_heads_of_an_opened_edge_are_found_by_cypher(store, make_circuit, project):
    circuit = opened(make_circuit())

    for _ in range(2):  # putting it again doubles nothing
        store.put_circuit(project(circuit))

        assert rows(
            store,
            "MATCH (a)-[e:ATTRIBUTES]->(b) WHERE '1.2' IN e.heads "
            "RETURN a.idx, b.idx, e.weight, e.straight, e.heads, e.head_weights",
        ) == [[6, 7, -1.0, 0.25, ["1.2", "1.0"], [-1.25, 0.125]]]
    assert rows(store, "MATCH ()-[e:ATTRIBUTES]->() WHERE '1.1' IN e.heads RETURN e") == []
    assert rows(
        store,
        "MATCH ()-[e:ATTRIBUTES]->() WHERE e.heads IS NOT NULL UNWIND range(0, size(e.heads) - 1) AS i "
        "RETURN e.heads[i] AS head, sum(e.head_weights[i]) AS weight ORDER BY head",
    ) == [["1.0", 0.125], ["1.2", -1.25]]
    assert rows(store, "MATCH ()-[e:ATTRIBUTES]->() WHERE e.heads IS NULL RETURN count(e)") == [[2]]


def test_of_two_edges_between_the_same_nodes_only_the_opened_one_has_heads(store, make_circuit, project):
    circuit = make_circuit()
    circuit.edges = Edges(source=[0, 1, 1, 2], target=[1, 2, 2, 3], weight=[0.5, -1.0, 0.1, 2.0])

    store.put_circuit(project(opened(circuit, edge=2)))

    assert rows(store, "MATCH ()-[e:ATTRIBUTES]->() WHERE e.heads IS NOT NULL RETURN e.weight, e.heads") == [
        [pytest.approx(0.1), ["1.2", "1.0"]]
    ]


def test_an_opened_edge_without_a_head_has_an_empty_list(store, make_circuit, project):
    circuit = opened(make_circuit())
    circuit.extra = {name: column[:1] for name, column in circuit.extra.items()}

    store.put_circuit(project(circuit))

    assert rows(
        store,
        "MATCH ()-[e:ATTRIBUTES]->() WHERE e.straight IS NOT NULL RETURN e.straight, e.heads, e.head_weights",
    ) == [[0.25, [], []]]


def test_a_circuit_loaded_before_heads_were_kept_gets_them_when_it_is_put_again(store, make_circuit, project):
    store.put_circuit(project(make_circuit()))
    circuit = opened(make_circuit())

    store.put_circuit(project(circuit))

    assert rows(store, "MATCH ()-[e:ATTRIBUTES]->() WHERE e.heads IS NOT NULL RETURN e.straight") == [[0.25]]


def test_deleting_the_last_circuit_leaves_nothing(store, make_circuit, project):
    circuit = make_circuit()
    store.put_circuit(project(circuit, supernodes=[ImportedSupernode(name="s", node_keys=[circuit.keys[1]])]))

    store.delete_circuit(circuit.id)

    assert census(store) == ([], [])
    store.delete_circuit(circuit.id)  # again is fine


def test_putting_a_circuit_again_changes_nothing_but_its_names(store, make_circuit, project):
    circuit = make_circuit()
    store.put_circuit(project(circuit))
    before = census(store), store.influences(TOWN)

    store.put_circuit(project(circuit, name="another", verdict="confirmed"))

    assert (census(store), store.influences(TOWN)) == before
    assert rows(store, "MATCH (c:Circuit) RETURN c.name, c.verdict") == [["another", "confirmed"]]


def test_counts_and_influences_are_over_counted_circuits_only(store, make_circuit, project):
    first, second = make_circuit("a b", (0.5, -1.0, 2.0)), make_circuit("c d", (0.5, 3.0, 2.0))
    replicate = make_circuit("a b", (0.5, -1.25, 2.0))
    for circuit, counted in ((first, True), (second, True), (replicate, False)):
        store.put_circuit(project(circuit, counted=counted))

    assert store.features([TOWN, "toy/toy-set/9/9"]) == {
        TOWN: {"label": None, "label_score": None, "circuits": 2, "layer": 0, "model": "toy"}
    }
    inputs, outputs = store.influences(TOWN)
    assert inputs == []
    assert outputs == [
        {
            "feature": COLOUR,
            "label": None,
            "method": "attribution",
            "unit": "target pre-activation",
            "circuits": 2,
            "prompts": 2,
            "mean_share": pytest.approx((0.5 + 1.5) / 2),
            "mean_weight": pytest.approx(1.0),
            "positive": 0.5,
        }
    ]


def test_a_promoted_replicate_takes_the_place_of_the_deleted_circuit(store, make_circuit, project):
    first, replicate = make_circuit("a b", (0.5, -1.0, 2.0)), make_circuit("a b", (0.5, -1.25, 2.0))
    store.put_circuit(project(first))
    store.put_circuit(project(replicate, counted=False))

    store.delete_circuit(first.id, project(first))
    assert store.influences(TOWN)[1] == []
    store.put_circuit(project(replicate, counted=True))

    (output,) = store.influences(TOWN)[1]
    assert (output["circuits"], output["mean_weight"]) == (1, pytest.approx(-1.25))
    assert store.features([TOWN])[TOWN]["circuits"] == 1


def test_methods_and_units_are_never_pooled(store, make_circuit, project):
    one = make_circuit("a b")
    other = make_circuit("c d").with_record(method=one.record.method.model_copy(update={"weight_unit": "logit"}))
    store.put_circuit(project(one))
    store.put_circuit(project(other))

    assert sorted((row["unit"], row["circuits"]) for row in store.influences(TOWN)[1]) == [
        ("logit", 1),
        ("target pre-activation", 1),
    ]


def test_a_label_is_found_by_meaning_and_by_words(store):
    store.put_features(
        [
            FeatureRow(TOWN, "a town in Texas", 0.9, [1, 0, 0, 0]),
            FeatureRow(COLOUR, "a colour: bläulich, 青い", None, [0, 1, 0, 0]),
        ]
    )

    near = store.nearest([0.9, 0.1, 0, 0], 2)
    assert [key for key, _ in near] == [TOWN, COLOUR]
    assert near[0][1] == pytest.approx((1 + 0.9 / (0.82**0.5)) / 2, abs=0.01)
    assert [key for key, _ in store.full_text("texas TOWN", 5)] == [TOWN]
    assert [key for key, _ in store.full_text("bläulich", 5)] == [COLOUR]
    assert store.full_text("town colour", 5) == []


def test_no_text_breaks_the_full_text_query(store):
    store.put_features([FeatureRow(TOWN, "a town in Texas")])
    town = store.full_text("town", 5)

    for text in ("", "  ", "*", "?", '"', "town AND", "OR", "NOT x", "a:b", "[1 TO 2]", "👩‍🚀", "town~", "\\", "^"):
        assert store.full_text(text, 5) in ([], town), text


def test_a_label_outlives_its_circuits_and_a_new_one_replaces_it(store, make_circuit, project):
    circuit = make_circuit()
    store.put_circuit(project(circuit))
    store.put_features([FeatureRow(TOWN, "a town", 0.5, [1, 0, 0, 0])])
    store.put_features([FeatureRow(TOWN, "a city", 0.75)])
    store.delete_circuit(circuit.id)

    assert store.features([TOWN, COLOUR]) == {
        TOWN: {"label": "a city", "label_score": 0.75, "circuits": 0, "layer": 0, "model": "toy"}
    }
    assert store.full_text("town", 5) == []
    assert store.nearest([1, 0, 0, 0], 5) == []


def test_an_embedding_of_another_encoder_is_refused(store):
    for embedding in ([1.0, 2.0], [0.0] * 4, [float("nan"), 1, 1, 1], []):
        with pytest.raises(InputRejected, match="4 finite numbers"):
            store.put_features([FeatureRow(TOWN, "a town", None, embedding)])


def test_concepts_and_collections_are_made_replaced_and_removed(store, make_circuit, project):
    circuit = make_circuit()
    store.put_circuit(project(circuit))
    store.put_concept("places", "ada", [TOWN, "no/such/0/1"])
    store.put_concept("places", "ada", [TOWN, COLOUR])
    store.put_collection("mine", "ada", [circuit.id])
    store.put_collection("mine", "ada", [circuit.id])

    assert rows(store, "MATCH (c:Concept)-[:GROUPS]->(f) RETURN c.name, c.author, f.key ORDER BY f.key") == [
        ["places", "ada", TOWN],
        ["places", "ada", COLOUR],
    ]
    assert rows(store, "MATCH (k:Collection)-[:HAS]->(c) RETURN k.name, c.id") == [["mine", circuit.id]]
    store.delete_concept("places")
    assert rows(store, "MATCH (c:Concept) RETURN c") == []


def test_heads_become_components_across_circuits(store, make_circuit, project):
    for prompt in ("a b", "c d"):
        circuit = make_circuit(prompt)
        circuit.nodes.kind[1:3] = 4  # head
        store.put_circuit(project(circuit))

    assert rows(store, "MATCH (n)-[:OCCURRENCE_OF]->(k:Component) RETURN k.key, k.kind, count(n) ORDER BY k.key") == [
        ["toy/head/0/6", "head", 2],
        ["toy/head/1/7", "head", 2],
    ]


def test_names_are_values_and_never_cypher(store, make_circuit, project):
    evil = "'}) MATCH (n) DETACH DELETE n //`"
    circuit = make_circuit(evil, model=evil, transcoders=evil)
    store.put_circuit(
        project(circuit, name=evil, supernodes=[ImportedSupernode(name=evil, node_keys=[circuit.keys[1]])])
    )
    store.put_concept(evil, evil, [])
    store.put_collection(evil, evil, [circuit.id])

    assert rows(store, "MATCH (c:Circuit) RETURN c.name, c.model") == [[evil, evil]]
    store.delete_circuit(circuit.id)
    assert store.circuit_ids() == {}


def test_clearing_leaves_an_empty_graph_that_can_be_filled_again(store, make_circuit, project):
    store.put_circuit(project(make_circuit()))
    store.put_features([FeatureRow(TOWN, "a town", 0.5, [1, 0, 0, 0])])
    told = []

    store.clear(lambda what, count: told.append((what, count)))

    assert ("Node", 4) in told
    assert rows(store, "MATCH (n) RETURN n") == []
    store.ensure_schema()
    store.put_features([FeatureRow(TOWN, "a town", 0.5, [1, 0, 0, 0])])
    assert store.nearest([1, 0, 0, 0], 1)[0][0] == TOWN


def test_a_large_graph_is_cleared_whole_and_an_interrupted_clearing_asks_for_a_rebuild(
    store, make_circuit, project, monkeypatch
):
    monkeypatch.setattr(store_module, "CLEAR_BATCH", 2)
    circuit = make_circuit()
    store.put_circuit(project(circuit))
    with pytest.raises(RuntimeError, match="stopped"):
        store.clear(lambda what, count: (_ for _ in ()).throw(RuntimeError("stopped")))
    with pytest.raises(SchemaMismatch, match="being cleared"):
        store.ensure_schema()

    store.clear()

    assert census(store) == ([], [])
    store.ensure_schema()
    store.put_circuit(project(circuit))
    assert census(store)[0] == [["Circuit", 1], ["Feature", 2], ["Node", 4]]
    assert store.features([TOWN])[TOWN]["circuits"] == 1


def test_another_encoder_or_version_asks_for_a_rebuild_and_the_rebuild_works(store, graph_settings):
    other = GraphStore.connect(graph_settings, dimension=3, encoder="other")
    try:
        with pytest.raises(SchemaMismatch, match="test-encoder") as caught:
            other.ensure_schema()
        assert "atlas rebuild" in caught.value.hint
        other.clear()
        other.ensure_schema()
        other.put_features([FeatureRow(TOWN, "a town", 0.5, [1, 0, 0])])
        assert other.nearest([1, 0, 0], 1)[0][0] == TOWN
        other._connection.write(lambda tx: tx.run("MATCH (m:Meta) SET m.schema = 99").consume())
        with pytest.raises(SchemaMismatch, match="version 99"):
            other.ensure_schema()
    finally:
        other.clear()
        other.close()


def test_a_store_without_an_encoder_reads_and_a_later_encoder_adds_the_index(graph_settings):
    plain = GraphStore.connect(graph_settings)
    plain.ensure_schema()
    plain.put_features([FeatureRow(TOWN, "a town")])
    assert plain.nearest([1, 0], 1) == []
    plain.close()

    later = GraphStore.connect(graph_settings, dimension=2, encoder="e")
    later.ensure_schema()
    later.put_features([FeatureRow(TOWN, "a town", None, [1, 0])])
    assert later.nearest([1, 0], 1)[0][0] == TOWN
    later.close()


def test_somebody_elses_database_is_left_alone(graph_settings):
    """Also where a label of theirs is one of ours, and whatever is asked for."""
    store = GraphStore.connect(graph_settings, catalog="mine")
    store._connection.write(lambda tx: tx.run("CREATE (:Node {name: 'Ada'})").consume())
    try:
        for refused in (store.ensure_schema, store.clear, store.claim, lambda: store.claim(take_over=True)):
            with pytest.raises(StoreUnavailable, match="holds other data"):
                refused()
        assert store._connection.read(cypher.META) == []
        assert rows(store, "MATCH (n) RETURN n.name") == [["Ada"]]
    finally:
        store._connection.write(lambda tx: tx.run("MATCH (n:Node) DETACH DELETE n").consume())
        store.close()


def test_the_graph_of_another_catalog_is_left_alone_until_it_is_taken_over(graph_settings):
    mine, other = (GraphStore.connect(graph_settings, catalog=name) for name in ("mine", "other"))
    try:
        mine.ensure_schema()
        for refused in (other.ensure_schema, other.claim):
            with pytest.raises(StoreUnavailable, match="belongs to another atlas") as error:
                refused()
            assert "atlas rebuild --take-over" in error.value.hint
        other.claim(take_over=True)
        other.ensure_schema()
        with pytest.raises(StoreUnavailable, match="belongs to another atlas"):
            mine.ensure_schema()
    finally:
        for store in (mine, other):
            store.close()


def test_a_graph_made_before_catalogs_had_ids_is_adopted_by_the_first_that_comes(graph_settings):
    old, mine, other = (GraphStore.connect(graph_settings, catalog=name) for name in (None, "mine", "other"))
    try:
        old.ensure_schema()
        mine.ensure_schema()
        with pytest.raises(StoreUnavailable, match="belongs to another atlas"):
            other.ensure_schema()
        old.ensure_schema()  # a store that names no catalog takes whichever is there
    finally:
        for store in (old, mine, other):
            store.close()


def test_the_server_says_what_it_is(store, graph_settings):
    assert store.server.startswith("Neo4j 5.26" if graph_settings.graph_url else "ArcadeDB 26.")
    assert store.address.startswith("bolt://127.0.0.1:")
