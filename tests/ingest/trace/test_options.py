"""Continuing, estimating, keeping the full graph and pruning it again; opened edges; how diffuse a graph is."""

from __future__ import annotations

import numpy as np
import pytest

from atlas import Atlas
from atlas.circuit_file import from_bytes, to_bytes
from atlas.errors import InputRejected, NotFound, UsageError
from ingest import trace
from ingest.trace import attribute, prune, prune_circuit
from ingest.trace.diffusion import effective_paths, influence_lost
from ingest.trace.estimate import estimate_trace
from ingest.trace.full_file import place
from ingest.trace.heads import open_edge
from ingest.trace.prompt import continued
from ingest.trace.targets import recorded_targets
from tests.ingest.trace.test_prune import drawn

PROMPT = [1, 7, 33, 7, 20]


@pytest.fixture
def atlas(settings):
    with Atlas.open(settings=settings) as opened:
        opened.graph  # noqa: B018
        yield opened
        from atlas.graph import embedded

    embedded.stop(settings.home)


def test_the_model_writes_on_and_a_token_of_its_text_is_explained(tiny):
    ids, written = continued(tiny, PROMPT, 3, -1)
    assert len(ids) == 7
    assert ids[:5] == PROMPT
    assert written == tiny.likeliest_next(ids)
    assert continued(tiny, PROMPT, 3, None) == (PROMPT, tiny.likeliest_next(PROMPT))
    assert continued(tiny, PROMPT, 0, None) == (PROMPT, None)
    assert continued(tiny, PROMPT, 0, 2) == (PROMPT[:2], 33)
    for by, at, kind, words in (
        (-1, None, UsageError, "cannot write -1"),
        (99, None, InputRejected, "longer than the model's context"),
        (0, 5, InputRejected, "no token at position 5 .* from 1 to 4"),
        (0, 0, InputRejected, "no token at position 0"),
    ):
        with pytest.raises(kind, match=words):
            continued(tiny, PROMPT, by, at)


def test_an_estimate_counts_exactly_what_a_trace_finds(tiny, tiny_set):
    graph = attribute(tiny, tiny_set, PROMPT)
    estimate = estimate_trace(tiny, tiny_set, PROMPT)
    assert (estimate.active_features, estimate.nodes) == (graph.order.n_features, graph.order.size)
    assert (estimate.tokens, estimate.targets) == (5, graph.order.n_logits)
    assert sum(estimate.largest_layers) == graph.order.n_features
    assert estimate.seconds > 0
    assert estimate.explained_variance < 1


@pytest.mark.embedded
def test_a_kept_full_graph_is_pruned_again_without_the_model(atlas, tiny, tiny_set):
    options = {"model": tiny, "transcoders": tiny_set, "token_ids": PROMPT}
    wide = trace(atlas, keep_full=True, **options)
    narrow = prune_circuit(atlas, wide.circuit, node_threshold=0.5, edge_threshold=0.8)
    assert narrow.nodes < wide.nodes
    again = trace(atlas, node_threshold=0.5, edge_threshold=0.8, **options)
    assert (again.circuit, again.already) == (narrow.circuit, True)
    kept, traced = atlas.load(narrow.circuit), atlas.load(wide.circuit)
    assert kept.record.scores.replacement == traced.record.scores.replacement
    assert kept.record.scores.influence_lost > traced.record.scores.influence_lost
    assert prune_circuit(atlas, narrow.circuit).circuit == wide.circuit  # back again
    other = trace(atlas, token_ids=PROMPT[:3], model=tiny, transcoders=tiny_set)
    with pytest.raises(NotFound, match="was not kept"):
        prune_circuit(atlas, other.circuit)
    file = place(atlas.settings, wide.circuit)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputRejected, match="is damaged"):
        prune_circuit(atlas, wide.circuit)


@pytest.mark.embedded
def test_the_strongest_edges_are_stored_opened_and_their_parts_sum_to_them(atlas, tiny, tiny_set):
    circuit = atlas.load(trace(atlas, model=tiny, transcoders=tiny_set, token_ids=PROMPT).circuit)
    edge, weight = circuit.extra["heads.edge"], circuit.extra["heads.weight"]
    opened = np.unique(edge)
    assert len(opened) == min(200, len(circuit.edges))
    total = np.bincount(edge, weights=weight, minlength=len(circuit.edges))
    largest = np.abs(circuit.edges.weight).max()
    np.testing.assert_allclose(total[opened], circuit.edges.weight[opened], atol=1e-5 * largest)
    assert {"heads.layer", "heads.head", "heads.source_position"} <= set(circuit.extra)
    copy = from_bytes(to_bytes(circuit))
    assert np.array_equal(copy.extra["heads.weight"], weight)
    assert copy.id == circuit.id


def every_walk(shares: dict[int, dict[int, float]], start: int) -> list[float]:
    if start not in shares:
        return [1.0]
    return [p * q for source, p in shares[start].items() for q in every_walk(shares, source)]


def test_effective_paths_is_the_perplexity_of_all_walks():
    # rows: features 0, 1; errors 2, 3; token 4; logit 5
    weights = {(5, 1): 3, (5, 3): -1, (5, 4): 1, (1, 0): -2, (1, 2): 2, (1, 4): 1, (0, 4): 7, (0, 2): 1}
    graph = drawn(weights, [(0, 0, 11), (1, 0, 12)])
    totals = {t: sum(abs(w) for (row, _), w in weights.items() if row == t) for t, _ in weights}
    shares = {t: {s: abs(w) / totals[t] for (row, s), w in weights.items() if row == t} for t in totals}
    walks = np.array(every_walk(shares, 5))
    assert walks.sum() == pytest.approx(1)
    assert effective_paths(graph) == pytest.approx(np.exp(-(walks * np.log(walks)).sum()))
    everything = prune(graph, 1.0, 1.0)
    assert influence_lost(graph, everything) == pytest.approx(0, abs=1e-12)
    pruned = prune(graph, 0.6, 0.7)
    rows = np.repeat(np.arange(6), np.diff(graph.matrix.indptr))
    kept = {(int(t), int(s)) for t, s in zip(rows[pruned.edges], graph.matrix.indices[pruned.edges], strict=True)}

    def whole(start: int) -> float:
        if start not in shares:
            return 1.0
        return sum(p * whole(s) for s, p in shares[start].items() if (start, s) in kept)

    assert influence_lost(graph, pruned) == pytest.approx(1 - whole(5))
    assert 0 < influence_lost(graph, pruned) < 1


def test_one_path_is_one_path():
    graph = drawn({(3, 0): 2, (0, 2): 5}, [(0, 0, 1)], n_layers=1)
    assert effective_paths(graph) == pytest.approx(1)


def test_a_set_of_another_model_is_warned_about_before_the_work(tiny, tiny_set):
    said, order = [], []
    attribute(
        tiny,
        tiny_set,
        PROMPT,
        warn=lambda text: order.append("warn") or said.append(text),
        progress=lambda *_: order.append("row"),
    )
    assert len(said) == 1  # random transcoders explain nothing
    assert "explained variance -" in said[0]
    assert order[0] == "warn"


@pytest.mark.embedded
def test_any_edge_can_be_opened_and_equals_what_is_stored(atlas, tiny, tiny_set):
    made = trace(atlas, model=tiny, transcoders=tiny_set, token_ids=PROMPT, targets=["diff:w7|w9", "w5@3"])
    circuit = atlas.load(made.circuit)
    targets = recorded_targets(tiny, circuit)
    for row in np.unique(circuit.extra["heads.edge"])[::40]:
        source, target = (circuit.keys[int(ends[row])] for ends in (circuit.edges.source, circuit.edges.target))
        stored = atlas.edge(made.circuit, source, target)
        assert sum(part.weight for part in stored.parts) == pytest.approx(stored.weight, abs=1e-4 * abs(stored.weight))
        fresh = open_edge(tiny, tiny_set, circuit, source, target, targets)
        assert [(p.way, p.layer, p.head, p.from_position) for p in fresh] == [
            (p.way, p.layer, p.head, p.from_position) for p in stored.parts
        ]
        assert [p.weight for p in fresh] == pytest.approx([p.weight for p in stored.parts], abs=1e-6)
    with pytest.raises(NotFound, match="no edge from"):
        atlas.edge(made.circuit, target, source)
    with pytest.raises(NotFound, match="no node"):
        atlas.edge(made.circuit, "feature/9/9/9", target)
