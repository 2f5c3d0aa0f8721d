"""What we write in other tools' forms reads back as the same circuit, and hand edits are seen."""

import io
import json

import make_format_files as files
import networkx as nx
import numpy as np
import pytest

from atlas.circuit import KIND, SITE, SLOT, Circuit, Edges, Nodes
from atlas.records import Annotations, ImportedLabel, ImportedSupernode
from ingest.formats import read_graph, write_graphml, write_neuronpedia

READABLE = [name for name in files.FILES if name not in ("llamascopium", "attribute")]


def check_structure(document: dict) -> None:
    """What the format's published schema demands, in our own words."""
    metadata = document["metadata"]
    assert all(isinstance(metadata[key], str) for key in ("slug", "scan", "prompt"))
    assert all(isinstance(token, str) for token in metadata["prompt_tokens"])
    assert metadata["schema_version"] == 1
    assert all(isinstance(value, (int, float)) for value in metadata["pruning_settings"].values())
    assert isinstance(metadata.get("node_threshold", 0.0), (int, float))
    view = document["qParams"]
    assert all(isinstance(item, str) for item in view["pinnedIds"])
    assert all(isinstance(part, str) for item in view["supernodes"] for part in item)
    ids = [node["node_id"] for node in document["nodes"]]
    assert len(set(ids)) == len(ids)
    for node in document["nodes"]:
        assert all(isinstance(node[key], str) for key in ("node_id", "layer", "feature_type", "jsNodeId", "clerp"))
        assert all(type(node[key]) is int for key in ("feature", "ctx_idx"))
        assert all(node[key] is None or isinstance(node[key], float) for key in ("influence", "activation"))
    for link in document["links"]:
        assert {link["source"], link["target"]} <= set(ids)
        assert isinstance(link["weight"], float)


def everything(make_circuit) -> Circuit:
    """A circuit with every kind and site, all slots, a repeated pair, a pooled position and ids that would collide."""
    base = make_circuit()
    rows = [(KIND["feature"], 0, 0, 1, 3), (KIND["error"], 0, 3, 1, -1), (KIND["feature"], SITE["attn"], 0, 1, 3)]
    rows += [(KIND[kind], SITE["q"], 0, 1, 2) for kind in ("head", "neuron", "resid", "bias", "unknown")]
    rows += [(KIND["mlp"], 0, 1, -1, -1), (KIND["resid"], SITE["pre"], -1, 0, -1), (KIND["feature"], 0, 1, 1, 2**62)]
    rows += [(KIND["token"], 0, -1, 1, -1), (KIND["logit"], 0, 4, 1, 7), (KIND["logit"], 0, 4, 1, 8)]
    columns = {name: [row[i] for row in rows] for i, name in enumerate(("kind", "site", "layer", "position", "index"))}
    n = len(rows)
    nodes = Nodes(
        **columns,
        activation=np.linspace(0.1, 1, n),
        influence=np.linspace(0, 0.3, n),
        influence_cumulative=np.linspace(0.5, 1, n),
        probability=[0.0] * (n - 2) + [0.5, 0.25],
        input_total=np.linspace(-1, 1, n),
        input_abs_total=np.full(n, 100.0),
    )
    edges = Edges(
        source=[0, 0, 1, 2, 3, 3, 5],
        target=[8, 8, 8, 3, 12, 12, 13],
        weight=np.linspace(-1, 1, 7),
        slot=[0, 0, 1, 2, 3, 0, 0],
    )
    targets = [base.record.targets[0].model_copy(update={"what": "two\nlines", "token_id": 7, "position": 1})]
    record = base.record.model_copy(update={"targets": targets, "thresholds": {"node": 0.8, "edge": None}})
    return Circuit(record, nodes, edges)


def by_text(annotations: Annotations) -> Annotations:
    return annotations.model_copy(update={"labels": sorted(annotations.labels, key=lambda label: label.text)})


def edit(data: bytes, change) -> bytes:
    document = json.loads(data)
    change(document)
    return json.dumps(document).encode()


def test_a_traced_circuit_comes_back_whole(make_circuit, settings):
    circuit = make_circuit()
    data = write_neuronpedia(circuit, None, {1: "label one"})
    check_structure(json.loads(data))
    graph = read_graph(data, "x", settings)
    assert graph.circuit.id == circuit.id
    assert graph.mended == {"missing_influence": 3}
    for name in Nodes.spec:
        assert np.array_equal(getattr(graph.circuit.nodes, name), getattr(circuit.nodes, name), equal_nan=True), name
    assert graph.annotations.labels == [ImportedLabel(node_key="feature/0/1/6", text="label one")]
    assert graph.circuit.trace_key == circuit.trace_key


def test_scores_of_the_full_graph_come_back_as_claims(make_circuit, settings):
    circuit = make_circuit()
    scores = circuit.record.scores.model_copy(update={"replacement": 0.75, "computed_on": "full graph"})
    data = write_neuronpedia(circuit.with_record(scores=scores))
    found = read_graph(data, "x", settings).circuit.record.scores
    assert found.claimed == {"replacement": 0.75}
    assert found.computed_on == "file"
    assert found.replacement == pytest.approx(1.0)  # no error nodes in the file


def test_every_kind_site_and_slot_survives(make_circuit, settings):
    circuit = everything(make_circuit)
    data = write_neuronpedia(circuit)
    check_structure(json.loads(data))
    graph = read_graph(data, "x", settings)
    assert graph.circuit.id == circuit.id
    assert graph.circuit.keys == circuit.keys
    assert (
        graph.circuit.edges.slot.tolist()
        == circuit.edges.slot.tolist()
        == [0, 0, SLOT["q"], SLOT["k"], SLOT["v"], 0, 0]
    )
    assert graph.circuit.record.targets == circuit.record.targets


@pytest.mark.parametrize("name", READABLE)
def test_every_dialect_written_and_read_again_keeps_id_and_annotations(name, settings):
    first = read_graph(files.FOLDER / f"{name}.json", settings=settings)
    data = write_neuronpedia(first.circuit, first.annotations)
    check_structure(json.loads(data))
    again = read_graph(data, "x", settings)
    assert again.circuit.id == first.circuit.id
    assert by_text(again.annotations) == by_text(first.annotations)
    assert again.circuit.extra.keys() == first.circuit.extra.keys()
    assert again.circuit.record.provenance.source_dialect == name.replace("collision", "circuit-tracer")
    written_again = json.loads(write_neuronpedia(again.circuit, again.annotations))
    assert (written_again["nodes"], written_again["links"]) == (json.loads(data)["nodes"], json.loads(data)["links"])


@pytest.mark.parametrize("name", ["circuit-tracer", "circuit-tracer-0", "neuronpedia", "neuronpedia-ui"])
def test_the_plain_format_alone_already_gives_the_same_circuit(name, settings):
    first = read_graph(files.FOLDER / f"{name}.json", settings=settings)
    data = edit(write_neuronpedia(first.circuit), lambda document: document["metadata"].pop("circuit_atlas"))
    assert read_graph(data, "x", settings).circuit.id == first.circuit.id


def test_annotations_travel_with_unresolved_members_and_label_origins(make_circuit, settings):
    circuit = make_circuit()
    annotations = Annotations(
        labels=[
            ImportedLabel(node_key="feature/0/1/6", text="here only", source="saved view", position=1),
            ImportedLabel(node_key="feature/1/1/7", text="two", source="interface download"),
        ],
        supernodes=[ImportedSupernode(name="n", node_keys=["token/-1/0/5", "feature/0/1/6"], unresolved=["9_9_9"])] * 2,
        pins=["logit/2/1/3"],
        unresolved_pins=["8_8_8"],
    )
    graph = read_graph(write_neuronpedia(circuit, annotations), "x", settings)
    assert graph.annotations == annotations


def test_a_newer_label_replaces_the_files(make_circuit, settings):
    annotations = Annotations(labels=[ImportedLabel(node_key="feature/0/1/6", text="old", source="saved view")])
    graph = read_graph(write_neuronpedia(make_circuit(), annotations, {1: "new"}), "x", settings)
    assert [(x.text, x.source) for x in graph.annotations.labels] == [("new", "graph file")]


def test_an_edited_weight_is_read_from_the_links(make_circuit, settings):
    def change(document):
        document["links"][1]["weight"] = 9.0

    graph = read_graph(edit(write_neuronpedia(make_circuit()), change), "x", settings)
    assert graph.circuit.id != make_circuit().id
    assert graph.circuit.edges.weight.tolist() == [0.5, 9.0, 2.0]
    assert graph.mended["edited_after_export"] == 1
    assert np.isnan(graph.circuit.nodes.input_total).all()
    assert graph.circuit.record.scores.computed_on == "file"


def test_an_edited_or_added_node_is_read_from_the_nodes(make_circuit, settings):
    def change(document):
        node = document["nodes"][1]
        node.update(layer="1", node_id="1_8_1", feature=files.cantor(1, 8))
        for link in document["links"]:
            link.update({end: "1_8_1" for end in ("source", "target") if link[end] == "0_6_1"})
        document["nodes"].append(node | {"node_id": "0_9_0", "layer": "0", "ctx_idx": 0, "feature": files.cantor(0, 9)})

    graph = read_graph(edit(write_neuronpedia(make_circuit()), change), "x", settings)
    assert graph.circuit.keys == ["token/-1/0/5", "feature/1/1/8", "feature/1/1/7", "logit/2/1/3", "feature/0/0/9"]
    assert graph.mended["edited_after_export"] == 1


def test_an_edited_prompt_changes_the_circuit(make_circuit, settings):
    data = edit(write_neuronpedia(make_circuit()), lambda d: d["metadata"].update(prompt_tokens=["a", "c"]))
    graph = read_graph(data, "x", settings)
    assert graph.circuit.tokens == ["a", "c"]


BAD = [None, [], "x", 5, {}, {"version": 1}, {"version": 99, "id": "c1-x"}]


@pytest.mark.parametrize("block", BAD)
def test_a_block_that_is_not_understood_is_as_if_absent(make_circuit, settings, block):
    data = edit(write_neuronpedia(make_circuit()), lambda document: document["metadata"].update(circuit_atlas=block))
    graph = read_graph(data, "x", settings)
    assert graph.circuit.keys == make_circuit().keys
    assert graph.circuit.record.model.name == "toy"
    assert graph.circuit.record.transcoders.name == "toy-set"


@pytest.mark.parametrize("field", ["id", "record", "nodes", "labels"])
@pytest.mark.parametrize(
    "value", [*BAD, {"E_5_0": 5}, {"E_5_0": ["token/-1/7/5", "x", {}, None]}, {"0_6_1": ["feature/1/1/6"]}]
)
def test_a_tampered_block_never_changes_nodes_and_links(make_circuit, settings, field, value):
    data = edit(
        write_neuronpedia(make_circuit()), lambda document: document["metadata"]["circuit_atlas"].update({field: value})
    )
    circuit = read_graph(data, "x", settings).circuit
    assert circuit.keys == make_circuit().keys
    assert circuit.edges.weight.tolist() == [0.5, -1.0, 2.0]


def test_totals_below_the_kept_weights_are_not_believed(make_circuit, settings):
    def change(document):
        document["metadata"]["circuit_atlas"]["nodes"]["3_3_1"][3] = 0.5  # the logit gets 2.0 from a kept edge alone

    circuit = read_graph(edit(write_neuronpedia(make_circuit()), change), "x", settings).circuit
    assert circuit.nodes.input_abs_total.tolist()[:3] == [0.0, 1.0, 2.0]
    assert np.isnan(circuit.nodes.input_abs_total[3])


def test_graphml_opens_with_every_node_edge_and_label(make_circuit):
    circuit = everything(make_circuit)
    circuit.record.name = "bad \x01 & <name>"
    graph = nx.read_graphml(io.BytesIO(write_graphml(circuit, {0: 'says "x" & <y> \x00'})))
    assert graph.is_directed()
    assert graph.is_multigraph()
    assert list(graph) == circuit.keys
    assert graph.nodes["feature/0/1/3"]["label"] == 'says "x" & <y> \ufffd'
    assert graph.nodes["feature/1/1/4611686018427387904"]["idx"] == 2**62
    assert "activation" in graph.nodes["head.q/0/1/2"]
    edges = sorted((s, t, round(d["weight"], 5), d["slot"]) for s, t, d in graph.edges(data=True))
    e = circuit.edges
    names = ("direct", "q", "k", "v")
    expected = zip(e.source, e.target, e.weight.tolist(), e.slot, strict=True)
    assert edges == sorted((circuit.keys[s], circuit.keys[t], round(w, 5), names[k]) for s, t, w, k in expected)
    assert graph.graph["model"] == "toy"
    assert graph.graph["name"] == "bad \ufffd & <name>"
