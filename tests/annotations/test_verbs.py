"""The verbs on both databases: history, undo, roles, two people at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas import Atlas
from atlas.catalog import annotation_log
from atlas.catalog.tables import Annotation
from atlas.circuit import Circuit
from atlas.errors import AccessDenied, Ambiguous, NotFound, UsageError
from atlas.settings import Settings
from tests.conftest import make_circuit

FEATURE = "feature:toy/toy-set/0/6"


@pytest.fixture
def circuit() -> Circuit:
    return make_circuit()


@pytest.fixture
def atlas(catalog_settings: Settings, circuit: Circuit) -> Iterator[Atlas]:
    """An atlas with one circuit whose graph store is never told anything."""
    with Atlas.open(settings=catalog_settings) as opened:
        opened._project = lambda announced: None
        opened.add(circuit)
        yield opened


def said(atlas: Atlas, *arguments, **options) -> list[str]:
    return [row.text for row in atlas.annotations(*arguments, **options)]


def test_everything_can_have_a_note_and_a_circuit_lists_those_inside_it(atlas: Atlas, circuit: Circuit) -> None:
    source, target = circuit.keys[1:3]
    atlas.define_concept("towns", [FEATURE.partition(":")[2]])
    atlas.create_collection("mine")
    inside = [circuit.id, f"{circuit.id}#{source}", f"{circuit.id}#{source}->{target}"]
    for subject in (*inside, FEATURE, "concept:towns", "collection:mine"):
        row = atlas.annotate(subject, "note", f"about {subject}")
        assert (row.subject, row.author, row.action, row.thread) == (subject, "tester", "add", row.id)
        assert said(atlas, subject)[-1] == f"about {subject}"
    assert {row.subject for row in atlas.annotations(circuit.id)} == set(inside)
    assert [row.subject_kind for row in atlas.annotations()] == [
        *("collection", "concept", "feature"),
        *("edge", "node", "circuit"),
    ]


def test_subjects_are_found_by_prefix_and_name_and_kept_by_id(atlas: Atlas, circuit: Circuit) -> None:
    node = circuit.keys[1]
    for given_subject in (circuit.id[:9], circuit.record.name, f" {circuit.record.name} "):
        assert atlas.annotate(given_subject, "note", "x").subject == circuit.id
    assert atlas.annotate(f"{circuit.record.name}#{node}", "note", "x").subject == f"{circuit.id}#{node}"


def test_a_circuit_with_a_number_sign_in_its_name_is_found(atlas: Atlas) -> None:
    other = make_circuit("c d")
    other = other.with_record(name="run #3")
    atlas.add(other)
    assert atlas.annotate("run #3", "note", "x").subject == other.id
    assert atlas.annotate(f"run #3#{other.keys[0]}", "note", "x").subject == f"{other.id}#{other.keys[0]}"


@pytest.mark.parametrize(
    ("subject", "error"),
    [
        ("no-such", NotFound),
        ("{id}#feature/9/9/9", NotFound),
        ("{id}#feature/1/1/7->feature/0/1/6", NotFound),  # the edge goes the other way
        ("{id}#", NotFound),
        ("feature:toy/toy-set/9/9", NotFound),
        ("feature:nonsense", NotFound),
        ("concept:none", NotFound),
        ("collection:none", NotFound),
        ("", UsageError),
    ],
)
def test_an_unknown_subject_is_refused_and_nothing_is_written(atlas: Atlas, circuit: Circuit, subject, error) -> None:
    with pytest.raises(error):
        atlas.annotate(subject.format(id=circuit.id), "note", "x")
    with pytest.raises(error):
        atlas.annotations(subject.format(id=circuit.id))
    assert atlas.annotations(history=True) == []


def test_bad_texts_kinds_and_members_are_refused(atlas: Atlas, circuit: Circuit) -> None:
    for kind, text, nodes in (
        ("note", " ", None),
        ("tag", "x" * 201, None),
        ("praise", "x", None),
        ("note", "x", [circuit.keys[1]]),
        ("supernode", "x", []),
        ("supernode", "x", None),
    ):
        with pytest.raises(UsageError):
            atlas.annotate(circuit.id, kind, text, nodes=nodes)
    with pytest.raises(NotFound, match="feature/9/9/9"):
        atlas.annotate(circuit.id, "supernode", "x", nodes=["feature/9/9/9"])
    with pytest.raises(UsageError, match="one circuit"):
        atlas.annotate(FEATURE, "supernode", "x", nodes=[circuit.keys[1]])
    for verb in (atlas.undo, atlas.remove_annotation, lambda i: atlas.change_annotation(i, "x")):
        with pytest.raises(NotFound, match="no annotation"):
            verb("nothing")
    assert atlas.annotations(history=True) == []


def test_a_change_a_removal_and_their_undos_leave_every_text_in_the_history(atlas: Atlas, circuit: Circuit) -> None:
    first = atlas.annotate(circuit.id, "note", "one")
    change = atlas.change_annotation(first.id, "two")
    removal = atlas.remove_annotation(change.id)  # any entry names the annotation
    assert said(atlas) == []
    with pytest.raises(NotFound, match="taken away by tester"):
        atlas.change_annotation(first.id, "three")
    back = atlas.undo(removal.id)
    assert (back.text, said(atlas)) == ("two", ["two"])
    assert atlas.undo(change.id).text == "one"
    assert said(atlas) == ["one"]
    with pytest.raises(UsageError, match="undone by tester already"):
        atlas.undo(change.id)
    history = atlas.annotations(circuit.id, history=True)
    assert [(row.action, row.text, row.holds) for row in reversed(history)] == [
        ("add", "one", True),
        ("change", "two", False),
        ("remove", "two", False),
        ("undo", "two", True),
        ("undo", "one", True),
    ]
    assert {row.thread for row in history} == {first.id}


def test_an_undo_of_an_undo_brings_back_what_was_undone(atlas: Atlas, circuit: Circuit) -> None:
    first = atlas.annotate(circuit.id, "note", "one")
    gone = atlas.undo(first.id)
    assert (gone.text, said(atlas)) == ("", [])
    again = atlas.undo(gone.id)
    assert (again.text, said(atlas)) == ("one", ["one"])
    atlas.undo(again.id)
    assert said(atlas) == []


def test_a_name_becomes_the_display_name_and_undo_brings_back_the_earlier_one(atlas: Atlas, circuit: Circuit) -> None:
    original = circuit.record.name
    first = atlas.annotate(circuit.id, "name", "First name")
    later = atlas.annotate("First name", "name", "Second name")
    assert atlas.resolve("Second name") == circuit.id
    assert [row.name for row in atlas.circuits(text="second")] == ["Second name"]
    assert atlas.circuits(text=original) == []
    assert atlas.show(circuit.id).record.name == original
    changed = atlas.change_annotation(first.id, "First name, better")  # said last, so it holds
    assert atlas.show(circuit.id).name == "First name, better"
    atlas.undo(changed.id)
    assert atlas.show(circuit.id).name == "Second name"
    atlas.remove_annotation(later.id)
    assert atlas.show(circuit.id).name == "First name"
    atlas.undo(first.id)
    assert atlas.show(circuit.id).name == original
    with pytest.raises(NotFound):
        atlas.resolve("First name")


def test_two_circuits_of_one_name_are_ambiguous(atlas: Atlas, circuit: Circuit) -> None:
    other = make_circuit("c d")
    atlas.add(other)
    for each in (circuit, other):
        atlas.annotate(each.id, "name", "same")
    with pytest.raises(Ambiguous):
        atlas.annotate("same", "note", "x")
    with pytest.raises(Ambiguous):
        atlas.annotations("same")


def test_a_name_on_a_feature_is_its_label_until_it_is_taken_back(atlas: Atlas, circuit: Circuit) -> None:
    from atlas.records import NewLabel

    key = FEATURE.partition(":")[2]
    atlas.put_labels([NewLabel(feature=key, text="by rule", method="tokens", score=0.9, random_score=0.5)])
    first = atlas.annotate(FEATURE, "name", "a town")
    change = atlas.change_annotation(first.id, "a town in Texas")
    assert atlas.node_labels(circuit.id) == {1: "a town in Texas"}
    atlas.undo(change.id)
    assert atlas.node_labels(circuit.id) == {1: "a town"}
    atlas.remove_annotation(first.id)
    assert atlas.node_labels(circuit.id) == {1: "by rule"}
    shown = _feature(atlas, key)
    assert (shown.label, shown.score) == ("by rule", 0.9)
    assert [(v.text, v.current, v.taken_back) for v in shown.labels] == [
        ("by rule", True, False),
        ("a town in Texas", False, True),
        ("a town", False, True),
    ]
    atlas.put_labels([NewLabel(feature=key, text="by a better rule", method="tokens")])
    assert atlas.node_labels(circuit.id) == {1: "by a better rule"}  # what was taken back hides nothing
    atlas.annotate(FEATURE, "name", "a town")  # the same words again are a new version
    assert atlas.node_labels(circuit.id) == {1: "a town"}


def test_a_feature_whose_only_name_is_taken_back_has_no_label(atlas: Atlas, circuit: Circuit) -> None:
    key = FEATURE.partition(":")[2]
    undone = atlas.undo(atlas.annotate(FEATURE, "name", "a town").id)
    assert _feature(atlas, key).label is None
    assert atlas.overview().labelled == 0
    assert key in atlas.features_without_label()
    assert atlas.node_labels(circuit.id) == {}
    atlas.undo(undone.id)
    assert _feature(atlas, key).label == "a town"
    assert key not in atlas.features_without_label()


def _feature(atlas: Atlas, key: str):
    from atlas.catalog import details

    with atlas.catalog.read() as session:
        return details.feature_detail(session, key)


def test_a_name_on_a_node_holds_in_its_circuit_only(atlas: Atlas, circuit: Circuit) -> None:
    other = make_circuit("c d")
    atlas.add(other)
    row = atlas.annotate(f"{circuit.id}#{circuit.keys[1]}", "name", "here only")
    assert (atlas.node_labels(circuit.id), atlas.node_labels(other.id)) == ({1: "here only"}, {})
    atlas.undo(row.id)
    assert atlas.node_labels(circuit.id) == {}


def test_tags_are_one_form_said_once_and_filter_circuits(atlas: Atlas, circuit: Circuit) -> None:
    other = make_circuit("c d")
    atlas.add(other)
    first = atlas.annotate(circuit.id, "tag", "#Two-Hop")
    assert atlas.annotate(circuit.id, "tag", "two-hop ").id == first.id
    atlas.annotate(f"{other.id}#{other.keys[0]}", "tag", "two-hop")  # of a node, not of the circuit
    assert [(row.id, row.tags) for row in atlas.circuits(tag="TWO-HOP")] == [(circuit.id, ["two-hop"])]
    assert atlas.circuits(tag="two") == []
    atlas.change_annotation(first.id, "facts")
    assert (atlas.circuits(tag="two-hop"), len(atlas.circuits(tag="facts"))) == ([], 1)
    atlas.remove_annotation(first.id)
    assert (atlas.circuits(tag="facts"), atlas.show(circuit.id).tags) == ([], [])
    with pytest.raises(UsageError):
        atlas.circuits(tag=" ")


def test_supernodes_of_people_join_those_of_files(atlas: Atlas, circuit: Circuit) -> None:
    from atlas.records import Annotations, ImportedSupernode

    brought = ImportedSupernode(name="from a file", node_keys=[circuit.keys[0]])
    atlas.add(circuit, annotations=Annotations(supernodes=[brought]))
    keys = circuit.keys[1:3]
    row = atlas.annotate(circuit.id, "supernode", "Texas", nodes=[*keys, keys[0]])
    assert row.nodes == keys
    assert atlas.show(circuit.id).supernodes == [brought, ImportedSupernode(name="Texas", node_keys=keys)]
    atlas.change_annotation(row.id, "Texas!", nodes=keys[:1])
    kept = atlas.change_annotation(row.id, "Texas")
    assert kept.nodes == keys[:1]  # nodes that are not named stay
    atlas.undo(kept.id)
    assert atlas.show(circuit.id).supernodes[1] == ImportedSupernode(name="Texas!", node_keys=keys[:1])
    # a file written from here and read again brings nothing new
    again = Annotations(supernodes=atlas.show(circuit.id).supernodes)
    atlas.add(circuit, annotations=again)
    assert len(atlas.show(circuit.id).supernodes) == 2


def test_the_log_outlives_its_circuit_and_holds_again_when_it_comes_back(atlas: Atlas, circuit: Circuit) -> None:
    atlas.annotate(circuit.id, "name", "Dallas")
    atlas.annotate(circuit.id, "tag", "facts")
    note = atlas.annotate(f"{circuit.id}#{circuit.keys[1]}", "note", "look")
    atlas.delete("Dallas")
    assert len(atlas.annotations(circuit.id, history=True)) == 3
    assert said(atlas, f"{circuit.id}#{circuit.keys[1]}") == ["look"]
    with pytest.raises(NotFound):
        atlas.annotate(circuit.id, "note", "x")
    atlas.undo(note.id)  # what was said of it may still be taken back
    atlas.add(circuit)
    shown = atlas.show("Dallas")
    assert (shown.id, shown.tags, said(atlas, circuit.id, kind="note")) == (circuit.id, ["facts"], [])


def test_a_list_is_filtered_by_kind_author_and_text_and_cut(atlas: Atlas, circuit: Circuit) -> None:
    for number in range(5):
        atlas.annotate(circuit.id, "note", f"Straße {number}")
    atlas.annotate(circuit.id, "tag", "x")
    assert said(atlas, kind="tag") == ["x"]
    assert said(atlas, text="STRASSE", limit=2) == ["Straße 4", "Straße 3"]
    assert said(atlas, author="nobody") == []
    assert len(said(atlas, author="tester", limit=None)) == 6
    assert said(atlas, limit=0) == []
    with pytest.raises(UsageError):
        atlas.annotations(limit=-1)


def test_a_reader_may_read_and_is_refused_every_write(atlas: Atlas, circuit: Circuit) -> None:
    atlas.add_person("reader1", role="reader")
    row = atlas.annotate(circuit.id, "note", "one")
    reader = atlas.acting_as("reader1")
    before = atlas.annotations(history=True)
    for write in (
        lambda: reader.annotate(circuit.id, "note", "x"),
        lambda: reader.change_annotation(row.id, "x"),
        lambda: reader.remove_annotation(row.id),
        lambda: reader.undo(row.id),
        lambda: reader.create_collection("x"),
        lambda: reader.collect("x", [circuit.id]),
        lambda: reader.annotate(FEATURE, "name", "x"),
    ):
        with pytest.raises(AccessDenied, match="needs the role editor"):
            write()
    assert reader.annotations(history=True) == before
    assert reader.collections() == []
    assert _feature(atlas, FEATURE.partition(":")[2]).labels == []


def test_entries_carry_their_authors_and_the_audit_log_has_each_write(atlas: Atlas, circuit: Circuit) -> None:
    for name in ("writer1", "writer2"):
        atlas.add_person(name, role="editor")
    row = atlas.acting_as("writer1").annotate(circuit.id, "note", "secret words")
    change = atlas.acting_as("writer2").change_annotation(row.id, "others")
    atlas.undo(change.id)
    assert [each.author for each in atlas.annotations(history=True)] == ["tester", "writer2", "writer1"]
    assert said(atlas, author="writer1", history=True) == ["secret words"]
    done = [(each.actor, each.verb) for each in atlas.audit(subject=circuit.id) if each.verb != "add"]
    assert done == [("tester", "undo"), ("writer2", "change annotation"), ("writer1", "annotate")]
    assert "secret words" not in str(atlas.audit())


def at_once(settings: Settings, count: int, work) -> list[BaseException | None]:
    """`work(atlas, number)` by `count` people with connections of their own, started together."""
    start = threading.Barrier(count)
    outcomes: list[BaseException | None] = [None] * count

    def run(number: int) -> None:
        with Atlas.open(settings=settings, actor=f"writer{number}") as own:
            own._project = lambda announced: None
            start.wait()
            try:
                work(own, number)
            except Exception as error:
                outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_people_who_write_at_once_lose_nothing_and_repeat_nothing(
    atlas: Atlas, circuit: Circuit, catalog_settings: Settings
) -> None:
    def write(own: Atlas, number: int) -> None:
        own.annotate(circuit.id, "tag", "same")
        for _ in range(3):
            own.annotate(circuit.id, "note", f"by {number}")

    assert at_once(catalog_settings, 6, write) == [None] * 6
    assert said(atlas, kind="tag") == ["same"]
    assert len(atlas.annotations(kind="tag", history=True)) == 1
    assert sorted(said(atlas, kind="note")) == sorted(f"by {number}" for number in range(6) for _ in range(3))


def test_of_several_who_remove_or_undo_the_same_at_once_one_does(
    atlas: Atlas, circuit: Circuit, catalog_settings: Settings
) -> None:
    row = atlas.annotate(circuit.id, "note", "one")
    removed = at_once(catalog_settings, 5, lambda own, number: own.remove_annotation(row.id))
    assert sorted(type(error).__name__ for error in removed) == ["NoneType", *["NotFound"] * 4]
    (removal,) = [each for each in atlas.annotations(history=True) if each.action == "remove"]
    undone = at_once(catalog_settings, 5, lambda own, number: own.undo(removal.id))
    assert sorted(type(error).__name__ for error in undone) == ["NoneType", *["UsageError"] * 4]
    assert said(atlas) == ["one"]


def test_a_clock_that_is_behind_does_not_make_a_later_entry_the_earlier_one(
    atlas: Atlas, circuit: Circuit, monkeypatch
) -> None:
    row = atlas.annotate(circuit.id, "note", "one")
    monkeypatch.setattr(annotation_log, "new_id", lambda: "0" * 16 + "f" * 16)
    for text in ("two", "three"):
        last = atlas.change_annotation(row.id, text)
    assert said(atlas) == ["three"]
    atlas.undo(last.id)
    assert said(atlas) == ["two"]


actions = st.lists(
    st.tuples(st.sampled_from(["add", "change", "remove", "undo"]), st.integers(0, 99)), min_size=1, max_size=12
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions)
def test_what_the_database_lists_is_the_fold_of_the_log(atlas: Atlas, circuit: Circuit, sequence) -> None:
    subject = f"{circuit.id}#{circuit.keys[1]}"
    entries = []
    for number, (action, choice) in enumerate(sequence):
        try:
            if action == "add" or not entries:
                entries.append(atlas.annotate(subject, "note", f"text {number}").id)
            else:
                target = entries[choice % len(entries)]
                match action:
                    case "change":
                        entries.append(atlas.change_annotation(target, f"text {number}").id)
                    case "remove":
                        entries.append(atlas.remove_annotation(target).id)
                    case "undo":
                        entries.append(atlas.undo(target).id)
        except (NotFound, UsageError):
            continue  # of what is away, or undone already
    with atlas.catalog.read() as session:
        log = session.query(Annotation).filter(Annotation.subject == subject).all()
    folded = {thread: (state.said.text, state.newest.id) for thread, state in annotation_log.fold(log).items()}
    listed = {row.thread: (row.text, row.id) for row in atlas.annotations(subject, limit=None)}
    assert listed == folded
