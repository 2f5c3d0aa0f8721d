"""The real graph files of other tools (ATLAS_SAMPLE_GRAPHS)."""

import gzip
import json
import time
from pathlib import Path

import jsonschema
import networkx as nx
import numpy as np
import pytest
from scipy.stats import spearmanr

from atlas import circuit_file
from atlas.settings import Settings
from ingest.formats import find_files, read_graph, write_graphml, write_neuronpedia

pytestmark = pytest.mark.samples


@pytest.fixture(scope="module")
def graphs(sample_graphs: Path, tmp_path_factory):
    """(path, parsed file, imported graph) of every real file."""
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    files = find_files([sample_graphs])
    return [
        (path, json.loads(gzip.decompress(path.read_bytes())), read_graph(path, settings=settings)) for path in files
    ]


def test_every_real_graph_keeps_all_its_nodes_and_links(graphs):
    assert len(graphs) == 43
    for path, raw, imported in graphs:
        assert (len(imported.circuit.nodes), len(imported.circuit.edges)) == (len(raw["nodes"]), len(raw["links"])), (
            path
        )


def test_only_the_graph_with_two_nodes_of_one_id_needs_mending(graphs):
    mended = {path.name: imported.mended for path, _, imported in graphs if imported.mended}
    assert mended == {"dollar.json.gz": {"colliding_node_ids": 1, "repeated_pairs": 6, "ambiguous_links": 69}}


def test_every_weight_runs_from_the_files_source_to_the_files_target(graphs):
    for path, raw, imported in graphs:
        circuit = imported.circuit
        ids = [node["node_id"] for node in raw["nodes"]]
        ours = [
            (ids[s], ids[t], w)
            for s, t, w in zip(
                circuit.edges.source.tolist(),
                circuit.edges.target.tolist(),
                circuit.edges.weight.tolist(),
                strict=True,
            )
        ]
        assert ours == [(x["source"], x["target"], float(np.float32(x["weight"]))) for x in raw["links"]], path


def test_written_and_read_again_every_real_graph_keeps_its_id_and_annotations(graphs, tmp_path):
    settings = Settings(home=tmp_path)
    for path, _, imported in graphs:
        data = write_neuronpedia(imported.circuit, imported.annotations)
        again = read_graph(data, "again", settings)
        assert again.circuit.id == imported.circuit.id, path
        assert again.annotations == imported.annotations, path
        assert "edited_after_export" not in again.mended, path
        blob = circuit_file.to_bytes(imported.circuit)
        assert read_graph(blob, "blob", settings).circuit.id == imported.circuit.id, path


def test_the_smallest_real_graph_of_every_kind_is_written_as_the_published_schema_wants_it(graphs, sample_graphs):
    schema = sample_graphs.parent / "schemas" / "graph-schema.json"
    if not schema.is_file():
        pytest.skip(f"the published schema is not at {schema}")
    validator = jsonschema.Draft7Validator(json.loads(schema.read_text()))
    kinds = {}
    for path, _, imported in graphs:
        record, size = imported.circuit.record, len(imported.circuit.edges)
        kinds.setdefault((imported.dialect, record.model.name, record.transcoders.name), []).append(
            (size, path, imported)
        )
    for found in kinds.values():
        _, path, imported = min(found, key=lambda item: item[0])  # the validator takes a second per 8,000 links
        document = json.loads(write_neuronpedia(imported.circuit, imported.annotations))
        assert next(validator.iter_errors(document), None) is None, path


def test_identities_are_unique_and_say_what_the_file_says(graphs):
    for path, raw, imported in graphs:
        circuit = imported.circuit
        assert len(set(circuit.keys)) == len(circuit.nodes), path
        for key, node in zip(circuit.keys, raw["nodes"], strict=True):
            kind, layer, position, index = key.split("/")
            first, middle, last = node["node_id"].split("_")
            expected = {
                "feature": ("feature", node["layer"], last, middle),
                "error": ("error", node["layer"], last, "-1"),
                "token": ("token", "-1", last, middle),
                "logit": ("logit", str(int(first) - 1) if kind == "logit" else "", last, middle),
            }
            assert (kind, layer, position, index) == expected[kind], (path, node["node_id"])


def test_target_texts_and_probabilities_are_the_files(graphs):
    for path, raw, imported in graphs:
        logits = [node for node in raw["nodes"] if node["feature_type"] == "logit"]
        for target, node in zip(imported.circuit.record.targets, logits, strict=True):
            assert f'Output "{target.what}" (p={node["token_prob"]:.3f})' in node["clerp"], path
            assert target.probability == float(np.float32(node["token_prob"]))


def test_dialects_models_and_sets_of_the_real_graphs(graphs):
    count = {}
    for _, _, imported in graphs:
        record = imported.circuit.record
        key = (imported.dialect, record.model.name, record.transcoders.name)
        count[key] = count.get(key, 0) + 1
    assert count == {
        ("neuronpedia", "gemma-2-2b", "mntss/clt-gemma-2-2b-2.5M"): 29,
        ("neuronpedia-ui", "gemma-2-2b", "mntss/clt-gemma-2-2b-2.5M"): 4,
        ("neuronpedia-ui", "gemma-2-2b", "gemmascope-transcoder-16k"): 4,
        ("circuit-tracer", "gemma-2-2b", "mntss/gemma-scope-transcoders"): 2,
        ("circuit-tracer", "gemma-2-2b", "unknown"): 1,
        ("circuit-tracer", "llama-3.2-1b", "mntss/clt-llama-3.2-1b-524k"): 3,
    }


def test_the_annotated_graph_brings_its_supernodes_and_pins(graphs):
    imported = next(x for path, _, x in graphs if path.name.startswith("gemma-small-big-en"))
    found = imported.annotations
    assert [(s.name, len(s.node_keys), s.unresolved) for s in found.supernodes] == [
        ('Output "big" or "large"', 2, []),
        ("say big / huge / large", 2, []),
        ("opposite", 3, []),
        ("small", 3, []),
        ("large / size", 3, []),
    ]
    assert len(found.pins) == 17
    assert found.unresolved_pins == []
    texts = {label.node_key: label.text for label in found.labels}
    assert texts["feature/4/2/95"] == "opposite"
    assert not [label for label in found.labels if not label.node_key.startswith("feature")]


def test_links_of_the_shared_id_go_to_the_node_that_their_order_names(graphs):
    circuit = next(x for path, _, x in graphs if path.name == "dollar.json.gz").circuit
    feature, error = circuit.row("feature/0/1/2"), circuit.row("error/2/1/-1")
    e = circuit.edges
    assert (e.target == feature).sum() == 2
    assert (e.target == error).sum() == 0
    assert circuit.nodes.layer[e.target[e.source == error]].min() == 3  # nothing but its order was used for these
    assert ((e.source == feature).sum(), (e.source == error).sum()) == (18, 61)
    pairs = np.stack([e.source, e.target], axis=1)
    assert len(np.unique(pairs, axis=0)) == len(pairs)


def test_our_influence_agrees_in_tendency_with_the_files_running_share(graphs):
    """The file's number is over the full graph, ours over what was kept of it: rank correlations are 0.67 to 0.94."""
    seen = 0
    for path, _, imported in graphs:
        nodes = imported.circuit.nodes
        known = np.isfinite(nodes.influence_cumulative) & ~nodes.is_kind("logit")
        if known.sum() > 200:
            seen += 1
            assert spearmanr(nodes.influence[known], -nodes.influence_cumulative[known]).statistic > 0.6, path
    assert seen == 38


def test_the_largest_real_graph_reads_in_well_under_a_second(sample_graphs, tmp_path):
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        read_graph(sample_graphs / "dollar.json.gz", settings=Settings(home=tmp_path))
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.5  # 0.11 s on an idle machine


def test_a_real_graph_written_as_graphml_opens_in_networkx(graphs, tmp_path):
    imported = next(x for path, _, x in graphs if path.name == "meow-clt.json.gz")
    path = tmp_path / "graph.graphml"
    path.write_bytes(write_graphml(imported.circuit))
    graph = nx.read_graphml(path)
    assert (graph.number_of_nodes(), graph.number_of_edges()) == (76, 374)
