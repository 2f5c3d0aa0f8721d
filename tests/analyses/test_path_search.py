"""The strongest paths: drawn by hand with fractions, against networkx on random graphs, and with cycles."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas.errors import UsageError
from atlas.path_search import between, find_paths, strongest
from tests.analyses.graphs import NAN, draw, layered

# 0 token a --1--> 2 feature (activation 2) --3--> 4 logit
# 0 token a -(-1)-> 3 feature (activation 4) --2--> 4 logit, and 2 --2--> 3
# 1 token b --1--> 3
NODES = [
    ("token", -1, 0, 5),
    ("token", -1, 1, 6),
    ("feature", 0, 1, 1, 2.0),
    ("feature", 1, 1, 1, 4.0),
    ("logit", 2, 1, 9),
]
EDGES = [(0, 2, 1.0), (0, 3, -1.0), (1, 3, 1.0), (2, 3, 2.0), (2, 4, 3.0), (3, 4, 2.0)]


def test_shares_and_effects_of_a_graph_drawn_by_hand():
    found = find_paths(draw(NODES, EDGES), [0], [4], limit=10)
    # inputs by absolute weight: node 2: 1; node 3: 1 + 1 + 2 = 4; node 4: 3 + 2 = 5
    # 0-2-4:   1/1 * 3/5       = 3/5     effect 1 * 3/2        = 3/2
    # 0-2-3-4: 1/1 * 2/4 * 2/5 = 1/5     effect 1 * 2/2 * 2/4  = 1/2
    # 0-3-4:   1/4 * 2/5       = 1/10    effect -1 * 2/4       = -1/2
    assert [path.nodes for path in found.paths] == [(0, 2, 4), (0, 2, 3, 4), (0, 3, 4)]
    assert [path.edges for path in found.paths] == [(0, 4), (0, 3, 5), (1, 5)]
    assert [path.share for path in found.paths] == pytest.approx([3 / 5, 1 / 5, 1 / 10])
    assert [path.effect for path in found.paths] == pytest.approx([3 / 2, 1 / 2, -1 / 2])
    assert not any(path.shares_known for path in found.paths)
    assert found.ignored_edges == 0


def test_shares_use_the_input_from_before_pruning_where_it_is_known():
    # node 2 had an absolute input of 2, node 4 of 10; node 3 is unknown and keeps its 4
    found = find_paths(draw(NODES, EDGES, totals=[0, 0, 2.0, NAN, 10.0]), [0], [4], limit=10)
    # 0-2-4: 1/2 * 3/10; 0-2-3-4: 1/2 * 2/4 * 2/10; 0-3-4: 1/4 * 2/10
    assert [path.share for path in found.paths] == pytest.approx([3 / 20, 1 / 20, 1 / 20])
    assert {path.nodes: path.shares_known for path in found.paths} == {
        (0, 2, 4): True,
        (0, 2, 3, 4): False,
        (0, 3, 4): False,
    }


def test_effect_is_none_where_an_activation_on_the_way_is_missing_or_zero():
    for bad in (NAN, 0.0):
        nodes = [*NODES[:3], ("feature", 1, 1, 1, bad), NODES[4]]
        effects = {path.nodes: path.effect for path in find_paths(draw(nodes, EDGES), [0], [4]).paths}
        assert effects[(0, 2, 4)] == pytest.approx(3 / 2)
        assert effects[(0, 2, 3, 4)] is None
        assert effects[(0, 3, 4)] is None


def test_activations_of_the_two_ends_do_not_matter():
    nodes = [("feature", 0, 0, 1, NAN), ("feature", 1, 0, 1, 0.0)]
    assert find_paths(draw(nodes, [(0, 1, -3.0)]), [0], [1]).paths[0].effect == -3.0


def test_repeated_pairs_are_paths_of_their_own_and_zero_weights_are_none():
    nodes = [("token", -1, 0, 5), ("feature", 0, 0, 1), ("logit", 1, 0, 9)]
    edges = [(0, 1, 1.0), (0, 1, 3.0, "k"), (0, 1, 0.0, "q"), (1, 2, 1.0)]
    found = find_paths(draw(nodes, edges), [0], [2])
    assert [path.edges for path in found.paths] == [(1, 3), (0, 3)]
    assert [path.share for path in found.paths] == pytest.approx([3 / 4, 1 / 4])


def test_a_node_that_is_both_ends_is_no_path_by_itself():
    circuit = draw(NODES, EDGES)
    assert find_paths(circuit, [2], [2]).paths == []
    # 2-4: 3/5; 2-3: 2/4; 2-3-4: 1/2 * 2/5; 3-4: 2/5
    found = find_paths(circuit, [2, 3], [2, 3, 4])
    assert {path.nodes: round(path.share, 9) for path in found.paths} == {
        (2, 4): 0.6,
        (2, 3): 0.5,
        (3, 4): 0.4,
        (2, 3, 4): 0.2,
    }


def test_nothing_between_the_ends_is_no_path():
    circuit = draw(NODES, EDGES)
    assert find_paths(circuit, [4], [0]).paths == []
    assert find_paths(circuit, [], [4]).paths == []
    assert find_paths(circuit, [0], []).paths == []
    assert find_paths(draw(NODES, []), [0], [4]).paths == []


def test_a_limit_below_one_is_refused():
    with pytest.raises(UsageError):
        find_paths(draw(NODES, EDGES), [0], [4], limit=0)


def test_cycles_lose_the_edge_that_runs_against_the_layers():
    nodes = [("token", -1, 0, 5), ("feature", 0, 0, 1), ("feature", 1, 0, 1), ("feature", 2, 0, 1), ("logit", 3, 0, 9)]
    # a cycle 1 -> 2 -> 3 -> 1 and a self loop on 2; rows of the nodes are not in layer order
    order = [4, 3, 0, 2, 1]
    row = {node: order.index(node) for node in range(5)}
    edges = [(0, 1, 1.0), (1, 2, 1.0), (2, 3, 1.0), (3, 1, 1.0), (2, 2, 5.0), (3, 4, 1.0)]
    circuit = draw([nodes[i] for i in order], [(row[s], row[t], w) for s, t, w in edges])
    found = find_paths(circuit, [row[0]], [row[4]])
    # node 1 has inputs 1 + 1, node 2 has 1 + 5, node 3 and the logit 1
    assert [path.nodes for path in found.paths] == [tuple(row[i] for i in range(5))]
    assert found.paths[0].share == pytest.approx(1 / 2 * 1 / 6)
    assert found.ignored_edges == 1


def test_backward_edges_that_close_no_cycle_are_followed():
    nodes = [("feature", 2, 0, 1), ("feature", 0, 0, 1), ("feature", 1, 0, 1)]
    found = find_paths(draw(nodes, [(0, 1, 1.0), (1, 2, 1.0)]), [0], [2])
    assert [path.nodes for path in found.paths] == [(0, 1, 2)]
    assert found.ignored_edges == 0


graphs = st.integers(2, 9).flatmap(
    lambda n: st.tuples(
        st.permutations(range(n)),
        st.lists(
            st.tuples(st.integers(0, n - 1), st.integers(0, n - 1), st.integers(-20, 20)).filter(
                lambda e: e[0] != e[1]
            ),
            max_size=24,
        ),
        st.sets(st.integers(0, n - 1), min_size=1, max_size=3),
        st.sets(st.integers(0, n - 1), min_size=1, max_size=3),
        st.integers(1, 12),
        st.booleans(),
    )
)


def oracle_shares(circuit, sources, targets) -> list[float]:
    """Shares of all simple paths of at least one edge, by enumeration."""
    graph = nx.MultiDiGraph()
    graph.add_nodes_from(range(len(circuit.nodes)))
    for edge, (source, target) in enumerate(zip(circuit.edges.source, circuit.edges.target, strict=True)):
        if circuit.edges.weight[edge]:
            graph.add_edge(int(source), int(target), edge)
    paths = {
        tuple(edge for *_, edge in path)
        for source in sources
        for target in targets - {source}
        for path in nx.all_simple_edge_paths(graph, source, target)
    }
    return sorted((float(np.prod(circuit.edge_shares[list(path)])) for path in paths), reverse=True)


@settings(max_examples=150, deadline=None)
@given(graphs)
def test_the_search_finds_what_enumeration_finds(drawn):
    order, edges, sources, targets, limit, dag = drawn
    n = len(order)
    if dag:
        edges = [(order[min(s, t)], order[max(s, t)], w) for s, t, w in edges]
    circuit = draw([("feature", 0, row, 0) for row in range(n)], edges, tuple("t" * n))
    found = find_paths(circuit, sorted(sources), sorted(targets), limit)
    expected = oracle_shares(circuit, sources, targets)
    for path in found.paths:
        assert path.nodes[0] in sources
        assert path.nodes[-1] in targets
        assert len(set(path.nodes)) == len(path.nodes)
        assert path.nodes[1:] == tuple(circuit.edges.target[list(path.edges)].tolist())
        assert path.nodes[:-1] == tuple(circuit.edges.source[list(path.edges)].tolist())
    assert len({path.edges for path in found.paths}) == len(found.paths)
    shares = [path.share for path in found.paths]
    if dag or found.ignored_edges == 0:
        assert shares == pytest.approx(expected[:limit])
    else:  # in a cycle some paths are out of reach, none is invented
        assert len(shares) <= len(expected)
        assert all(share <= best * (1 + 1e-9) for share, best in zip(shares, expected, strict=False))
    if dag:
        assert found.ignored_edges == 0


@pytest.mark.parametrize("seed", range(8))
def test_the_ten_best_of_hundreds_are_those_of_enumeration(seed):
    # weights over many orders of magnitude: often several paths of one predecessor beat the best of another
    circuit = layered(3, 4, np.random.default_rng(seed), density=0.8, sigma=3.0)
    tokens, logit = set(range(4)), {len(circuit.nodes) - 1}
    expected = oracle_shares(circuit, tokens, logit)
    assert len(expected) > 50
    found = find_paths(circuit, sorted(tokens), sorted(logit), limit=10)
    assert [path.share for path in found.paths] == pytest.approx(expected[:10])


@settings(max_examples=60, deadline=None)
@given(graphs, st.integers(0, 2**32 - 1))
def test_many_graphs_at_once_give_what_each_gives_alone(drawn, seed):
    order, edges, sources, targets, limit, _ = drawn
    circuit = draw([("feature", 0, row, 0) for row in range(len(order))], edges, tuple("t" * len(order)))
    part = between(circuit, np.array(sorted(sources)), np.array(sorted(targets)))
    logs = np.log(np.random.default_rng(seed).random((5, len(part.edges))))
    logs[:, ::7] = -np.inf
    together = strongest(part, logs.astype(np.float32), limit).values
    alone = [strongest(part, row[None, :], limit, trace=True).values[0] for row in logs]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_effects_of_all_paths_add_up_to_what_linear_propagation_gives(seed):
    rng = np.random.default_rng(seed)
    circuit = layered(3, 3, rng)
    circuit.nodes.activation[circuit.nodes.is_kind("feature")] = rng.uniform(0.5, 2, 9)
    start, logit = 0, len(circuit.nodes) - 1
    found = find_paths(circuit, [start], [logit], limit=1000)
    # Removing the token changes every node's pre-activation by -moved; a node that moves by a part of its activation
    # moves its targets by that part of the weight. Rows are in topological order.
    weights = circuit.adjacency().toarray().astype(np.float64)
    part = np.zeros(len(circuit.nodes))
    moved = np.zeros(len(circuit.nodes))
    part[start] = 1.0
    for row in range(len(circuit.nodes)):
        if row != start:
            moved[row] = weights[row] @ part
            part[row] = moved[row] / circuit.nodes.activation[row] if circuit.nodes.is_kind("feature")[row] else 0.0
    assert 0 < len(found.paths) < 1000
    assert sum(path.effect for path in found.paths) == pytest.approx(moved[logit], rel=1e-5)
