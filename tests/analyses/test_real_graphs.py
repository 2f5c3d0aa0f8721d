"""The analyses on real attribution graphs: right, and fast enough to wait for."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from atlas.circuit import Circuit
from atlas.compare import compare
from atlas.path_search import between, find_paths, paths_between
from atlas.significance import null_paths, p_values
from ingest.formats import read_graph

pytestmark = pytest.mark.samples


@pytest.fixture(scope="module")
def graph(sample_graphs: Path):
    loaded: dict[str, Circuit] = {}

    def load(name: str) -> Circuit:
        if name not in loaded:
            loaded[name] = read_graph(sample_graphs / f"{name}.json.gz").circuit
        return loaded[name]

    return load


def ends(circuit: Circuit) -> tuple[np.ndarray, np.ndarray]:
    return np.flatnonzero(circuit.nodes.is_kind("token")), np.flatnonzero(circuit.nodes.is_kind("logit"))


@pytest.mark.parametrize(
    "name", ["bee-insect-clt", "nobelcomesfromth-1761108237891_2025-10-22T04-46-53-163Z", "war_ea"]
)
def test_paths_are_those_of_another_algorithm(graph, name):
    circuit = graph(name)
    drawn = nx.DiGraph()
    for source, target, share in zip(circuit.edges.source, circuit.edges.target, circuit.edge_shares, strict=True):
        if share > 0 and source != target:
            length = -np.log(share)
            assert not drawn.has_edge(source, target)
            drawn.add_edge(int(source), int(target), length=length)
    tokens, logits = ends(circuit)
    compared = 0
    for token in tokens.tolist():
        logit = int(logits[0])
        if not (token in drawn and logit in drawn and nx.has_path(drawn, token, logit)):
            continue
        # Yen's algorithm, by rising length = falling share
        expected = [
            nx.path_weight(drawn, p, "length")
            for p in islice(nx.shortest_simple_paths(drawn, token, logit, "length"), 10)
        ]
        found = find_paths(circuit, [token], [logit], limit=10)
        assert found.ignored_edges == 0
        assert [path.share for path in found.paths] == pytest.approx(np.exp(-np.array(expected)), rel=1e-6)
        compared += 1
    assert compared >= 3


def test_null_graphs_of_a_real_graph_have_paths_as_likely_and_p_is_on_the_grid(graph):
    circuit = graph("feather-clt-hp")
    part = between(circuit, *ends(circuit))
    found = paths_between(circuit, part, 10)
    null = null_paths(circuit, part, 10, 99, seed=1)
    assert np.isfinite(null).all()
    assert (np.diff(null, axis=1) <= 0).all()
    p = p_values([path.share for path in found.paths], null)
    assert np.allclose(p * 100, np.round(p * 100))
    assert all(0 < path.share <= 1 for path in found.paths)


def test_a_real_graph_equals_itself_and_two_prompts_of_one_family_share_some(graph):
    one, other = graph("cool-clt-hp"), graph("hiss-clt-hp")
    assert compare(one, one).similarity == 1.0
    result = compare(one, other)
    assert len(result.positions) == 13
    assert 0.1 < result.similarity < 0.9
    assert result.shared + result.only_a == len(one.edges)
    mirrored = compare(other, one)
    assert mirrored.similarity == pytest.approx(result.similarity)
    assert mirrored.shared == result.shared
