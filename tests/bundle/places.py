"""An atlas with something of every kind in it, and every answer that it gives."""

from __future__ import annotations

from typing import Any

from atlas import Atlas
from atlas.group_records import TraceRequest
from atlas.records import ActivationExample, Annotations, ImportedLabel, ImportedSupernode, NewLabel
from tests.causal.results import ablated, cut, scored, verification
from tests.conftest import make_circuit
from tests.graph_content import graph_content

KEY, OTHER = "toy/toy-set/0/6", "toy/toy-set/1/7"
NODES = ("feature/0/1/6", "feature/1/1/7")
BROUGHT_WITH_IT = Annotations(
    labels=[
        ImportedLabel(node_key=NODES[1], text="says a state, 100 % “sure”"),
        ImportedLabel(node_key=NODES[0], text="only here", position=1),
    ],
    supernodes=[ImportedSupernode(name="Texas", node_keys=list(NODES), unresolved=["gone"])],
    pins=[NODES[1], NODES[0]],
    unresolved_pins=["nowhere"],
)
EXAMPLES = [ActivationExample(tokens=[" Austin", "\n", "字"], activations=[0.0, 1.5, 1 / 3])]


def fill(atlas: Atlas) -> None:
    """Records of every kind, also such as were changed, undone or outlived what they are about."""
    first = atlas.add(scored(make_circuit("Dallas is")), annotations=BROUGHT_WITH_IT, collection="capitals").circuit
    goes = atlas.add(make_circuit("Oslo is")).circuit
    second = atlas.add(make_circuit("Oslo is", (0.5, -1.5, 2.0)), collection="capitals").circuit
    third = atlas.add(make_circuit("Oslo is", (0.5, -1.25, 2.0))).circuit  # a replicate that does not count
    other = atlas.add(make_circuit("Paris is in", model="other/model", transcoders="set 2", features=(9, 10))).circuit
    atlas.annotate(goes, "note", "worth keeping")
    atlas.delete(goes)  # its note stays in the log, and `second` counts from now on
    labels = [
        NewLabel(feature=KEY, text="state capitals", method="tokens", score=0.75, random_score=0.5, examples=EXAMPLES),
        NewLabel(feature=OTHER, text="says a city", method="tokens", promoted=["Austin"], suppressed=["the"]),
        NewLabel(feature="other%2Fmodel/set%202/0/9", text="rivers of France", method="tokens", score=1 / 3),
    ]
    atlas.put_labels(labels)
    atlas.put_labels([labels[0].model_copy(update={"text": "capitals of states"})])
    atlas.define_concept("Texas", [KEY, OTHER])
    atlas.annotate("concept:Texas", "note", "the state,\nnot the steak")
    atlas.annotate("collection:capitals", "note", "two-hop facts")
    atlas.annotate(first, "tag", "Two Hop")
    atlas.annotate(f"{first}#{NODES[0]}->{NODES[1]}", "note", "the edge that matters")
    atlas.annotate(f"{first}#{NODES[0]}", "name", "hop one")
    name = atlas.annotate(first, "name", "Dallas, first try")
    atlas.change_annotation(name.id, "Dallas")
    atlas.annotate(first, "supernode", "both hops", list(NODES))
    removed = atlas.annotate(second, "tag", "wrong")
    atlas.remove_annotation(removed.id)
    undone = atlas.annotate(f"feature:{KEY}", "name", "capital, surely")
    atlas.undo(undone.id)
    atlas.annotate(f"feature:{OTHER}", "name", "city <b>names</b>")
    atlas.undo(atlas.undo(atlas.annotate(third, "name", "third").id).id)
    atlas.collect("others", [other, second])
    atlas.create_collection("empty")
    atlas.add_interventions([ablated(first), cut(first, *NODES), cut(first, *NODES, mark="refuted")], battery="b1")
    atlas.add_measurement(first, "verification", verification(first))
    atlas.add_intervention(ablated(second, mark="inconclusive"))


def fill_group(atlas: Atlas) -> None:
    """What a backup keeps beside that: accounts, tokens, jobs."""
    atlas.add_person("reader1")
    atlas.add_person("editor1", role="editor", password="correct horse battery", email="editor1@example.org")
    atlas.new_token("editor1", "laptop", days=30)
    atlas.enqueue_traces([TraceRequest(prompt="Fact:", model="toy", transcoders="toy-set")], batch="later")


def answers(atlas: Atlas) -> dict[str, Any]:
    """Every answer about circuits, labels, annotations and the graph, as plain values."""
    rows = atlas.circuits(limit=None)
    ids = [row.id for row in rows]
    features = sorted({node.feature for id in ids for node in atlas.show(id).top_nodes if node.feature})
    asked: dict[str, Any] = {
        "circuits": rows,
        "by text": atlas.circuits(text="dallas"),
        "by name": atlas.resolve("Dallas"),
        "in a collection": atlas.circuits(collection="capitals"),
        "show": [atlas.show(id) for id in ids],
        "node labels": [atlas.node_labels(id) for id in ids],
        "features": [atlas.feature(key) for key in features],
        "search": [(hit.feature, hit.label, round(hit.score, 5)) for hit in atlas.search("capital city")],
        "search text": [hit.feature for hit in atlas.search("rivers of France")],
        "paths": atlas.paths("concept:Texas", "logit:x", null_graphs=19),
        "compare": atlas.compare(*sorted(ids)[:2]),
        "concepts": atlas.concepts(),
        "annotations": atlas.annotations(limit=None),
        "history": atlas.annotations(history=True, limit=None),
        "history of what is gone": atlas.annotations(text="worth keeping", history=True),
        "collections": atlas.collections(),
        "interventions": [atlas.interventions(id) for id in ids],
        "marks": [atlas.edge_marks(id) for id in ids],
        "measurements": atlas.measurements(),
        "without label": atlas.features_without_label(),
        "graph": graph_content(atlas),
        "blobs": [len(atlas.load(id).edges) for id in ids],
        "audit": [entry for entry in audit(atlas) if entry["verb"] not in OF_THE_MOVE],
    }
    return {name: plain(value) for name, value in asked.items()}


OF_THE_MOVE = {"import", "restore", "rebuild"}


def audit(atlas: Atlas) -> list[dict[str, Any]]:
    return [entry.model_dump() for entry in atlas.audit(limit=10_000)]


def plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return plain(value.model_dump())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return round(value, 6) if isinstance(value, float) else value


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What is not the same, for a failure that can be read."""
    return {name: (before.get(name), after.get(name)) for name in before | after if before.get(name) != after.get(name)}
