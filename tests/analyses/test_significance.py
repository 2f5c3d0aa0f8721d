"""The null keeps the architecture, is uniform where there is nothing to find, and small where there is."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from atlas import significance
from atlas.circuit import Circuit
from atlas.path_search import between, find_paths
from atlas.significance import blocks, null_paths, null_shares, p_values, permuted_weights
from tests.analyses.graphs import draw, layered


def test_blocks_hold_equal_layers_kinds_slots_and_same_or_different_position():
    nodes = [("token", -1, 0, 5), ("token", -1, 1, 6), ("error", 0, 1, -1), ("feature", 0, 1, 1), ("feature", 1, 1, 1)]
    nodes += [("feature", 1, 1, 2), ("logit", 2, 1, 9)]
    edges = [
        (0, 4, 1.0),
        (0, 5, 1.0),
        (1, 4, 1.0),
        (2, 4, 1.0),
        (2, 5, 1.0),
        (3, 4, 1.0),
        (3, 4, 1.0, "q"),
        (4, 6, 1.0),
    ]
    # tokens elsewhere, token here, errors, feature direct, feature through q, feature to logit
    names = [0, 0, 1, 2, 2, 3, 4, 5]
    found = blocks(draw(nodes, edges)).tolist()
    assert [found.index(block) for block in found] == [names.index(name) for name in names]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(-10, 10, width=32)), max_size=30),
    st.integers(1, 5),
    st.integers(0, 99),
)
def test_every_null_graph_has_the_weights_of_each_block(pairs, graphs, seed):
    block = np.array([pair[0] for pair in pairs], np.int64)
    weights = np.array([pair[1] for pair in pairs], np.float32)
    permuted = permuted_weights(weights, block, graphs, np.random.default_rng(seed))
    assert permuted.shape == (graphs, len(pairs))
    for row in permuted:
        for number in np.unique(block):
            assert sorted(row[block == number]) == sorted(weights[block == number])


def test_weights_are_permuted_evenly_and_independently_by_graph():
    permuted = permuted_weights(np.arange(3, dtype=np.float32), np.zeros(3, np.int64), 6000, np.random.default_rng(0))
    _, counts = np.unique(permuted, axis=0, return_counts=True)
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-3


def test_null_shares_of_a_target_add_up_to_the_share_that_was_kept():
    nodes = [("token", -1, p, p) for p in range(3)] + [("feature", 0, 3, 1), ("feature", 0, 3, 2), ("logit", 1, 3, 9)]
    edges = [
        (s, t, w) for (s, t), w in zip([(s, t) for t in (3, 4) for s in range(3)], (1, 2, 3, 4, 5, 6), strict=True)
    ]
    edges += [(3, 5, 1.0), (4, 5, 2.0)]
    # feature 3 keeps 6 of 12, feature 4 all of an unknown total, the logit 3 of 4
    circuit = draw(nodes, edges, tuple("abcd"), totals=[np.nan] * 3 + [12.0, np.nan, 4.0])
    part = between(circuit, np.arange(3), np.array([5]))
    shares = null_shares(circuit, part, 50, np.random.default_rng(0))
    target = circuit.edges.target[part.edges]
    for row, kept in ((3, 0.5), (4, 1.0), (5, 0.75)):
        np.testing.assert_allclose(shares[:, target == row].sum(axis=1), kept, rtol=1e-5)
    logit = shares[:, target == 5]
    assert {tuple(np.round(row, 5)) for row in logit} == {(0.25, 0.5), (0.5, 0.25)}


def test_only_part_of_the_circuit_between_the_ends_still_borrows_weights_from_all_of_it():
    # weight 100 sits on an edge that is not between the ends, in the same block as one that is
    nodes = [("token", -1, 0, 1), ("token", -1, 1, 2), ("feature", 0, 2, 1), ("feature", 0, 2, 2), ("logit", 1, 2, 9)]
    edges = [(0, 2, 1.0), (1, 2, 1.0), (1, 3, 100.0), (2, 4, 1.0)]
    circuit = draw(nodes, edges, tuple("abc"))
    part = between(circuit, np.array([0]), np.array([4]))
    assert sorted(part.edges.tolist()) == [0, 3]
    shares = null_shares(circuit, part, 100, np.random.default_rng(0))[:, part.edges.tolist().index(0)]
    assert set(np.round(shares, 4)) == {np.float32(0.5), np.float32(0.9901), np.float32(0.0099)}


def p_of_rank_one(circuit: Circuit, graphs: int, seed: int) -> float:
    tokens, logit = np.flatnonzero(circuit.nodes.is_kind("token")), np.array([len(circuit.nodes) - 1])
    found = find_paths(circuit, tokens, logit, limit=1)
    null = null_paths(circuit, between(circuit, tokens, logit), 1, graphs, seed)
    return float(p_values([path.share for path in found.paths], null)[0])


def test_p_values_are_uniform_when_weights_are_exchangeable():
    drawn = [layered(3, 10, np.random.default_rng(seed), density=0.9, skip=False) for seed in range(200)]
    values = np.array([p_of_rank_one(circuit, 39, seed) for seed, circuit in enumerate(drawn)])
    # p lies on the grid 1/40 ... 40/40; spread evenly below each grid point it is uniform on (0, 1)
    spread = values - np.random.default_rng(1).random(200) / 40
    assert stats.kstest(spread, "uniform").pvalue > 0.01


def test_p_values_are_never_too_small_when_the_null_ties_with_the_circuit():
    # with edges to every later layer the strongest path is often one strong edge that no permutation changes
    values = np.array([p_of_rank_one(layered(2, 6, np.random.default_rng(seed)), 39, seed) for seed in range(150)])
    assert np.mean(values <= 0.05) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 150)
    assert np.mean(values <= 0.25) <= 0.25


def test_a_planted_strong_path_has_the_smallest_p():
    rng = np.random.default_rng(3)
    circuit = layered(3, 6, rng, density=1.0, sigma=0.5)
    chain = [0, 6, 12, 18, len(circuit.nodes) - 1]  # token 0, the first feature of every layer, the logit
    for source, target in pairwise(chain):
        circuit.edges.weight[(circuit.edges.source == source) & (circuit.edges.target == target)] = 60.0
    found = find_paths(circuit, [0], [chain[-1]], limit=1)
    assert found.paths[0].nodes == tuple(chain)
    part = between(circuit, np.array([0]), np.array(chain[-1:]))
    null = null_paths(circuit, part, 1, 199, seed=0)
    assert p_values([found.paths[0].share], null)[0] <= 0.02


def test_a_path_without_alternatives_has_p_one():
    nodes = [("token", -1, 0, 1), ("feature", 0, 0, 1), ("feature", 1, 0, 1), ("logit", 2, 0, 9)]
    circuit = draw(nodes, [(0, 1, 0.3), (1, 2, 0.7), (0, 2, 0.1), (2, 3, 0.9), (0, 3, 1 / 3)], ("a",))
    found = find_paths(circuit, [0], [3])
    null = null_paths(circuit, between(circuit, np.array([0]), np.array([3])), 10, 19)
    assert len(found.paths) == 3
    assert p_values([path.share for path in found.paths], null).tolist() == [1.0, 1.0, 1.0]


def test_p_counts_null_graphs_at_least_as_strong():
    null = np.log(np.array([[0.5, 0.1], [0.2, 0.1], [0.3, 0.0001]]))
    assert p_values([0.3, 0.2], null).tolist() == [3 / 4, 1 / 4]


def test_the_same_seed_gives_the_same_null_and_rounds_do_not_change_its_size(monkeypatch):
    circuit = layered(3, 4, np.random.default_rng(0))
    part = between(circuit, np.array([0]), np.array([len(circuit.nodes) - 1]))
    one = null_paths(circuit, part, 3, 25, seed=5)
    np.testing.assert_array_equal(one, null_paths(circuit, part, 3, 25, seed=5))
    assert not np.array_equal(one, null_paths(circuit, part, 3, 25, seed=6))
    monkeypatch.setattr(significance, "_MAX_CELLS", 4 * len(circuit.edges))
    assert null_paths(circuit, part, 3, 25, seed=5).shape == (25, 3)
    assert null_paths(circuit, part, 3, 0).shape == (0, 3)


@pytest.mark.parametrize("share", [0.0, 1e-300])
def test_p_of_no_share_is_one(share):
    assert p_values([share], np.full((4, 1), -1.0)).tolist() == [1.0]
