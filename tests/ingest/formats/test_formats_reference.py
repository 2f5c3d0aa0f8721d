"""Scores against the reference's graphs, and what our own tracer makes going out and coming back."""

from pathlib import Path

import numpy as np
import pytest

from atlas.circuit import KIND, Edges, Nodes
from ingest.formats import read_graph, write_neuronpedia
from ingest.formats.scores import score_file

ORACLE = Path(__file__).resolve().parent.parent / "data" / "oracle"


@pytest.mark.parametrize("name", ["plt_relu/short", "plt_relu/long", "plt_skip/short"])
def test_influence_and_scores_equal_the_references(name):
    arrays = np.load(ORACLE / f"{name}.npz")
    matrix = arrays["adjacency_matrix"]
    features, tokens, logits = (len(arrays[key]) for key in ("selected_features", "input_ids", "logit_token_ids"))
    counts = (features, len(matrix) - features - tokens - logits, tokens, logits)
    kind = np.repeat([KIND[name] for name in ("feature", "error", "token", "logit")], counts)
    probability = np.full(len(matrix), np.nan)
    probability[kind == KIND["logit"]] = arrays["logit_probabilities"]
    target, source = np.nonzero(matrix)
    edges = Edges(source=source, target=target, weight=matrix[target, source])
    found = score_file(Nodes(kind=kind, probability=probability), edges)
    assert found.converged
    assert np.abs(found.influence - arrays["node_influence"]).max() < 1e-6
    assert found.replacement == pytest.approx(float(arrays["replacement_score"]), abs=1e-6)
    assert found.completeness == pytest.approx(float(arrays["completeness_score"]), abs=1e-6)


@pytest.mark.slow
def test_a_circuit_of_our_tracer_comes_back_with_id_totals_and_claimed_scores(settings):
    from ingest.models import load_model
    from ingest.trace import question, trace_circuit
    from ingest.transcoders import load_transcoders

    model = load_model(ORACLE / "model", device="cpu")
    transcoders = load_transcoders(ORACLE / "plt_relu", model)
    parameters = {"targets": None, "max_logits": 10, "logit_mass": 0.95, "max_features": None, "dtype": "float32"}
    asked = question(model, transcoders, [1, 5, 9, 30], None, parameters, {"node": 0.8, "edge": 0.98})
    circuit = trace_circuit(model, transcoders, asked, None, actor="tester")
    again = read_graph(write_neuronpedia(circuit), "again.json", settings)
    assert again.circuit.id == circuit.id
    assert again.circuit.trace_key == circuit.trace_key
    assert again.circuit.keys == circuit.keys
    assert "edited_after_export" not in again.mended
    assert np.isfinite(circuit.nodes.input_abs_total).any()
    for name in Nodes.spec:
        assert np.array_equal(getattr(again.circuit.nodes, name), getattr(circuit.nodes, name), equal_nan=True), name
    scores = circuit.record.scores
    assert again.circuit.record.scores.claimed["replacement"] == scores.replacement
    assert again.circuit.record.scores.claimed["completeness_pruned"] == scores.completeness_pruned
    assert again.circuit.record.scores.computed_on == "file"
