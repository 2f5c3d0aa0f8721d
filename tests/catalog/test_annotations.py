from __future__ import annotations

import pytest

from atlas.catalog import annotations, concepts, details, labels
from atlas.errors import NotFound, UsageError
from atlas.records import Annotations, ImportedLabel, ImportedSupernode, NewLabel

FEATURE, OTHER, TOKEN = "feature/0/1/6", "feature/1/1/7", "token/-1/0/5"


def merge(session, circuit, brought):
    sorted_labels = annotations.sort_labels(circuit, brought)
    labels.put(session, sorted_labels.feature_labels)
    return annotations.merge(session, circuit, brought, sorted_labels.node_labels)


def test_a_label_at_one_position_stays_with_its_circuit_and_wins_there(make_circuit, keep, read, write):
    here, there = make_circuit(), make_circuit("c d")
    keep(here), keep(there)
    brought = Annotations(
        labels=[
            ImportedLabel(node_key=FEATURE, text="everywhere"),
            ImportedLabel(node_key=FEATURE, text="here only", position=1),
            ImportedLabel(node_key=TOKEN, text="not a feature"),
            ImportedLabel(node_key="feature/9/9/9", text="dropped node"),
        ]
    )
    write(merge, here, brought)
    assert read(details.node_labels, here) == {0: "not a feature", 1: "here only"}
    assert read(details.node_labels, there) == {1: "everywhere"}
    assert [version.method for version, _ in read(labels.versions, "toy/toy-set/0/6")] == ["graph file"]


def test_annotations_are_merged_not_repeated(make_circuit, keep, read, write):
    circuit = make_circuit()
    keep(circuit)
    brought = Annotations(
        labels=[ImportedLabel(node_key=FEATURE, text="x", position=1)],
        supernodes=[ImportedSupernode(name="A", node_keys=[FEATURE, OTHER, "gone"], unresolved=["lost"])],
        pins=[OTHER, "gone"],
        unresolved_pins=["lost"],
    )
    assert write(merge, circuit, brought) is True
    assert write(merge, circuit, brought) is False
    more = ImportedSupernode(name="A", node_keys=[OTHER])  # names may repeat
    assert write(merge, circuit, Annotations(supernodes=[more], pins=[FEATURE])) is True
    first, second = read(annotations.supernodes, circuit.id)
    assert (first.name, first.node_keys, first.unresolved) == ("A", [FEATURE, OTHER], ["lost", "gone"])
    assert second == more
    assert read(annotations.pins, circuit.id) == [OTHER, FEATURE]


def test_a_concept_is_defined_redefined_and_deleted(make_circuit, keep, read, write):
    keep(make_circuit())
    keys = ["toy/toy-set/0/6", "toy/toy-set/1/7"]
    assert write(concepts.define, " Texas ", keys * 2).features == keys
    write(concepts.define, "Texas", keys[:1])
    assert [(row.name, row.author, row.features) for row in read(concepts.all_of)] == [("Texas", "tester", keys[:1])]
    assert write(concepts.remove, "Texas") == "Texas"
    with pytest.raises(NotFound, match="no concept"):
        write(concepts.remove, "Texas")


def test_a_concept_takes_features_of_circuits_or_labels_only(make_circuit, keep, write):
    keep(make_circuit())
    write(labels.put, [NewLabel(feature="toy/toy-set/5/5", text="x", method="tokens")])
    write(concepts.define, "labelled", ["toy/toy-set/5/5"])
    with pytest.raises(NotFound, match="toy/toy-set/8/8"):
        write(concepts.define, "Texas", ["toy/toy-set/0/6", "toy/toy-set/8/8"])
    with pytest.raises(NotFound, match="not a feature key"):
        write(concepts.define, "Texas", ["feature"])
    for name, keys in ((" ", ["toy/toy-set/0/6"]), ("Texas", [])):
        with pytest.raises(UsageError):
            write(concepts.define, name, keys)
