"""Collections on both databases, and in both graph stores."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from atlas import Atlas
from atlas.errors import NotFound, UsageError
from atlas.settings import Settings
from tests.conftest import make_circuit
from tests.graph_content import graph_content


@pytest.fixture
def atlas(catalog_settings: Settings) -> Iterator[Atlas]:
    with Atlas.open(settings=catalog_settings) as opened:
        opened._project = lambda announced: None
        for prompt in ("a b", "c d", "e f"):
            opened.add(make_circuit(prompt))
        yield opened


def names(atlas: Atlas, collection: str) -> list[str]:
    return sorted(row.name for row in atlas.circuits(collection=collection))


def test_circuits_come_into_a_collection_and_out_of_it(atlas: Atlas) -> None:
    assert atlas.create_collection(" empty ").circuits == 0
    assert atlas.collect("mine", ["a-b", "c-d", "a-b"]).model_dump() == {"changed": 2, "already": 0}
    assert atlas.collect("mine", ["a-b", "e-f"]).model_dump() == {"changed": 1, "already": 1}
    assert atlas.uncollect("mine", ["a-b", "a-b"]).model_dump() == {"changed": 1, "already": 0}
    assert atlas.uncollect("mine", ["a-b"]).model_dump() == {"changed": 0, "already": 1}
    assert names(atlas, "mine") == ["c-d", "e-f"]
    assert [(row.name, row.circuits, row.author) for row in atlas.collections()] == [
        ("empty", 0, "tester"),
        ("mine", 2, "tester"),
    ]


def test_one_unknown_circuit_and_nothing_is_changed(atlas: Atlas) -> None:
    with pytest.raises(NotFound, match="nothing-like-it"):
        atlas.collect("mine", ["a-b", "nothing-like-it"])
    assert atlas.collections() == []
    atlas.collect("mine", ["a-b"])
    with pytest.raises(NotFound):
        atlas.uncollect("mine", ["a-b", "nothing-like-it"])
    assert names(atlas, "mine") == ["a-b"]


def test_bad_and_taken_names_are_refused(atlas: Atlas) -> None:
    atlas.create_collection("mine")
    atlas.create_collection("yours")
    for refused in (
        lambda: atlas.create_collection("mine"),
        lambda: atlas.create_collection("  "),
        lambda: atlas.create_collection("x" * 201),
        lambda: atlas.collect("", ["a-b"]),
        lambda: atlas.rename_collection("mine", "yours"),
        lambda: atlas.rename_collection("mine", " "),
    ):
        with pytest.raises(UsageError):
            refused()
    for unknown in (
        lambda: atlas.rename_collection("none", "x"),
        lambda: atlas.delete_collection("none"),
        lambda: atlas.uncollect("none", ["a-b"]),
    ):
        with pytest.raises(NotFound, match="no collection"):
            unknown()
    assert [row.name for row in atlas.collections()] == ["mine", "yours"]


def test_a_renamed_collection_keeps_author_circuits_and_notes(atlas: Atlas) -> None:
    atlas.collect("mine", ["a-b", "c-d"])
    atlas.annotate("collection:mine", "note", "what it is for")
    made = atlas.collections()[0].created_at
    info = atlas.rename_collection("mine", "ours")
    assert (info.name, info.circuits, info.note, info.created_at) == ("ours", 2, "what it is for", made)
    assert atlas.rename_collection("ours", "ours").circuits == 2
    assert [row.subject for row in atlas.annotations("collection:ours")] == ["collection:ours"]
    with pytest.raises(NotFound):
        atlas.annotations("collection:mine")
    done = atlas.audit(subject="ours")[0]
    assert (done.verb, done.detail) == ("rename collection", {"old": "mine"})


def test_a_deleted_collection_leaves_its_circuits_and_its_history(atlas: Atlas) -> None:
    atlas.collect("mine", ["a-b"])
    atlas.annotate("collection:mine", "note", "what it is for")
    assert atlas.delete_collection("mine").changed == 1
    assert (len(atlas.circuits()), atlas.collections()) == (3, [])
    assert [row.text for row in atlas.annotations("collection:mine")] == ["what it is for"]
    with pytest.raises(NotFound):
        atlas.annotate("collection:mine", "note", "x")


def test_people_who_fill_one_collection_at_once_all_succeed(atlas: Atlas, catalog_settings: Settings) -> None:
    faults: list[Exception] = []
    start = threading.Barrier(5)

    def fill() -> None:
        with Atlas.open(settings=catalog_settings) as own:
            own._project = lambda announced: None
            start.wait()
            try:
                own.collect("new", ["a-b", "c-d"])
            except Exception as error:
                faults.append(error)

    threads = [threading.Thread(target=fill) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (faults, names(atlas, "new")) == ([], ["a-b", "c-d"])


def test_the_graph_has_collections_as_the_catalog_has_them(store_pair: Settings) -> None:
    with Atlas.open(settings=store_pair) as atlas:
        for prompt in ("a b", "c d"):
            atlas.add(make_circuit(prompt))
        atlas.collect("mine", ["a-b", "c-d"])
        atlas.collect("gone", ["a-b"])
        atlas.uncollect("mine", ["a-b"])
        atlas.rename_collection("mine", "ours")
        atlas.delete_collection("gone")
        held = graph_content(atlas)
        assert [row[0] for row in held["collections"]] == ["ours"]
        atlas.rebuild()
        assert graph_content(atlas) == held
