"""The real graph files of other tools (ATLAS_SAMPLE_GRAPHS)."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from ingest.formats import find_files, read_graph

pytestmark = pytest.mark.samples


@pytest.fixture(scope="module")
def graphs(sample_graphs: Path, tmp_path_factory):
    """(path, parsed file, imported graph) of every real file."""
    from atlas.settings import Settings

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
