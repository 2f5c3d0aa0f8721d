"""`atlas doctor --mend` on both pairs of stores: every fault is made for real, found, left alone without --mend, mended with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from sqlalchemy import func, select, update

from atlas import Atlas
from atlas.catalog import circuits
from atlas.catalog import labels as label_store
from atlas.catalog.projector import GIVE_UP, description, projection_from
from atlas.catalog.tables import Audit, Label, OutboxEntry
from atlas.circuit_file import to_bytes
from atlas.diagnosis import Check, examine
from atlas.records import NewLabel
from atlas.settings import Settings
from tests.conftest import make_circuit
from tests.graph_content import graph_content
from tests.servers.fixtures import environment_of

FEATURE = "toy/toy-set/0/6"


@pytest.fixture
def atlas(store_pair: Settings) -> Iterator[Atlas]:
    """Two circuits, one of them in a collection, a concept and a label."""
    with Atlas.open(settings=store_pair) as opened:
        opened.add(make_circuit("a b"), collection="toys")
        opened.add(make_circuit("a c", (0.5, 1.0, 2.0)))
        opened.define_concept("letters", [FEATURE])
        opened.put_labels([NewLabel(feature=FEATURE, text="the letter a", method="tokens")])
        yield opened


def looked(settings: Settings, name: str, mend: bool = False) -> Check:
    return next(check for check in examine(settings, mend) if check.name == name)


def break_graph(atlas: Atlas, statement: str, **parameters: object) -> None:
    atlas.graph._connection.write(lambda tx: tx.run(statement, parameters).consume())


def test_a_graph_that_lacks_some_and_holds_too_much_is_made_equal_to_the_catalog(atlas: Atlas) -> None:
    before = graph_content(atlas)
    kept, lost = (row.id for row in atlas.circuits())
    with atlas.catalog.read() as session:
        detail = description(circuits.get(session, kept), [])
    stranger = make_circuit("x y z", (0.25, 1.0, 1.0), features=(8, 9))
    atlas.graph.put_circuit(projection_from(to_bytes(stranger), detail))
    atlas.graph.delete_circuit(lost)
    atlas.graph.delete_concept("letters")
    break_graph(atlas, "MATCH (f:Feature {key: $key}) SET f.label = 'something else'", key=FEATURE)
    break_graph(atlas, "MATCH (:Collection {name: 'toys'})-[h:HAS]->() DELETE h")
    found = looked(atlas.settings, "projection")
    assert not found.ok
    for part in ("1 circuits missing", "1 circuits too many", "1 labels", "1 concepts", "1 collections"):
        assert part in found.found
    assert not looked(atlas.settings, "projection").ok, "looking changes nothing"
    mended = looked(atlas.settings, "projection", mend=True)
    assert (mended.ok, mended.mended) == (True, True), mended
    again = looked(atlas.settings, "projection", mend=True)
    assert (again.ok, again.mended) == (True, False)
    after = graph_content(atlas)
    strange_features = {"toy/toy-set/0/8", "toy/toy-set/1/9"}
    for name, rows in after.items():
        rows = [row for row in rows if not strange_features & set(map(str, row))]
        if name != "all nodes":
            assert rows == before[name], name
    with atlas.catalog.read() as session:
        assert session.scalar(select(func.count()).where(Audit.verb == "mend")) == 1


def test_changes_that_wait_or_were_given_up_reach_the_graph(atlas: Atlas) -> None:
    gone = atlas.circuits()[0].id
    atlas.graph.delete_circuit(gone)

    def given_up(session) -> None:
        entry = {"detail": {}, "payload": None, "error": "OSError('no')", "created_at": "2026-01-01T00:00:00+00:00"}
        session.add(OutboxEntry(action="put", subject=gone, attempts=GIVE_UP, **entry))
        session.add(OutboxEntry(action="concept", subject="letters", attempts=0, **entry))

    atlas.catalog.write("tester", given_up)
    found = looked(atlas.settings, "outbox")
    assert not found.ok
    assert "2 changes wait" in found.found
    assert "1 of them given up (OSError('no'))" in found.found
    with atlas.catalog.read() as session:
        assert session.scalar(select(func.count(OutboxEntry.seq))) == 2, "looking tells the graph nothing"
    assert looked(atlas.settings, "outbox", mend=True).mended
    assert atlas.graph.circuit_ids()[gone] == "ready"
    assert looked(atlas.settings, "outbox").ok


@pytest.mark.parametrize("schema", [0, 1, 99])
def test_a_projection_of_another_schema_is_made_again(atlas: Atlas, schema: int) -> None:
    before = graph_content(atlas)
    break_graph(atlas, "MATCH (m:Meta) SET m.schema = $schema", schema=schema)
    assert not looked(atlas.settings, "graph").ok
    checks = examine(atlas.settings, mend=True)
    assert [check.name for check in checks if check.mended] == ["graph"]
    assert all(check.ok for check in checks), checks
    assert graph_content(atlas) == before


def test_somebody_elses_graph_is_named_and_left_alone(store_pair: Settings) -> None:
    with Atlas.open(settings=store_pair) as atlas:
        connection = atlas.graph._connection
        atlas.graph.clear()
        connection.write(lambda tx: tx.run("CREATE (:Meal {name: 'soup'})").consume())
        try:
            for mend in (False, True):
                found = looked(store_pair, "graph", mend)
                assert not found.ok
                assert "holds other data" in found.found
                assert "ATLAS_GRAPH_DATABASE" in found.hint
            assert connection.read("MATCH (n) RETURN n.name AS name") == [{"name": "soup"}]
        finally:
            connection.write(lambda tx: tx.run("MATCH (n:Meal) DELETE n").consume())


@pytest.mark.slow
def test_labels_without_or_with_another_encoders_embedding_are_embedded_again(atlas: Atlas) -> None:
    before = graph_content(atlas)
    assert len(before["embeddings"]) == 1

    def lose(session) -> None:
        session.execute(update(Label).values(embedding=None, encoder=None))

    atlas.catalog.write("tester", lose)
    break_graph(atlas, "MATCH (f:Feature) REMOVE f.embedding")
    assert "1 labels have none" in looked(atlas.settings, "embeddings").found
    assert looked(atlas.settings, "embeddings", mend=True).mended
    assert graph_content(atlas)["embeddings"] == before["embeddings"]

    def other(session) -> None:
        session.execute(update(Label).values(encoder="older"))
        label_store.remember_encoder(session, label_store.EncoderRecord("older", 8))

    atlas.catalog.write("tester", other)
    found = looked(atlas.settings, "encoder")
    assert not found.ok
    assert "embedded with older" in found.found
    checks = examine(atlas.settings, mend=True)
    assert all(check.ok for check in checks), checks
    assert next(check for check in checks if check.name == "encoder").mended
    with Atlas.open(settings=atlas.settings) as fresh:
        assert graph_content(fresh)["embeddings"] == before["embeddings"]


def test_the_verb_says_what_it_mended_and_its_exit_code_says_whether_all_is_well(atlas: Atlas) -> None:
    atlas.graph.delete_circuit(atlas.circuits()[0].id)

    def doctor(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "atlas", "doctor", *arguments]
        environment = {**os.environ, **environment_of(atlas.settings)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        assert done.stderr == ""
        return done.returncode, done.stdout

    code, text = doctor()
    assert code == 1
    assert "FAULT" in text
    assert "atlas doctor --mend" in text
    code, out = doctor("--mend", "--json")
    assert code == 0, out
    assert [check["name"] for check in json.loads(out) if check["mended"]] == ["projection"]
    assert doctor()[0] == 0
