"""The payload that the canvas draws, over circuits drawn by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from atlas.causal_records import EdgeMark
from atlas.circuit import Circuit, Edges, Nodes
from tests.conftest import make_circuit
from tests.ui.causal_samples import component_circuit
from ui.canvas import contract


def with_nodes(circuit: Circuit, **columns) -> Circuit:
    return Circuit(circuit.record, Nodes(**{**circuit.nodes.columns(), **columns}), circuit.edges)


def test_the_payload_names_columns_by_tokens_and_rows_from_input_to_output():
    payload = contract.single(make_circuit("the cat"), {1: "animals"})
    assert payload["tokens"] == ["the", "cat"]
    assert payload["layers"] == ["input", "layer 0", "layer 1", "output"]
    assert payload["nodes"]["x"] == [0, 1, 1, 1]
    assert payload["nodes"]["y"] == [0, 1, 2, 3]
    assert payload["nodes"]["label"] == ["the", "animals", "feature 1/7", "x 75%"]
    assert payload["mode"] == "single"


def test_link_weights_are_signed_shares_of_the_targets_total_input():
    payload = contract.single(make_circuit(), {})
    # totals 1, 2, 4 and weights 0.5, -1, 2
    assert payload["links"]["w"] == [0.5, -0.5, 0.5]


def test_numbers_that_are_not_finite_never_reach_the_browser():
    nan, inf = float("nan"), float("inf")
    circuit = with_nodes(
        make_circuit(), activation=[nan, inf, -inf, nan], influence=[nan, inf, 1, nan], probability=[nan] * 4
    )
    payload = contract.single(circuit, {})
    contract.check(payload)
    assert payload["nodes"]["act"] == [None] * 4
    json.dumps(payload, allow_nan=False)


def test_check_refuses_numbers_json_does_not_know_and_columns_that_do_not_fit():
    payload = contract.single(make_circuit(), {})
    broken = {**payload, "nodes": {**payload["nodes"], "act": [float("nan")] * 4}}
    with pytest.raises(ValueError, match="JSON"):
        contract.check(broken)
    with pytest.raises(ValueError, match="label"):
        contract.check({**payload, "nodes": {**payload["nodes"], "label": ["one"]}})
    with pytest.raises(ValueError, match="outside"):
        contract.check({**payload, "links": {"s": [0], "t": [9], "w": [1.0]}})


def test_a_path_lights_its_nodes_and_the_links_between_them():
    circuit = make_circuit()
    payload = contract.single(circuit, {}, path=[circuit.keys[0], circuit.keys[1], circuit.keys[2], "feature/9/9/9"])
    assert payload["mode"] == "path"
    assert payload["path"] == {"nodes": [0, 1, 2], "links": [0, 1]}


def test_the_revision_changes_with_labels_but_not_without_a_reason():
    circuit = make_circuit()
    first = contract.single(circuit, {1: "one"})
    assert first["rev"] == contract.single(circuit, {1: "one"})["rev"]
    assert first["rev"] != contract.single(circuit, {1: "other"})["rev"]
    assert first["key"] == contract.single(circuit, {1: "other"})["key"]


def test_pooled_nodes_and_positions_beyond_the_tokens_get_columns_of_their_own():
    circuit = with_nodes(make_circuit("a b"), position=[0, -1, 5, 1])
    payload = contract.single(circuit, {})
    assert payload["tokens"] == ["pooled", "a", "b", "position 5"]
    assert payload["nodes"]["x"] == [1, 0, 3, 2]
    contract.check(payload)


def test_a_circuit_without_nodes_is_drawn_as_nothing():
    empty = Circuit(make_circuit().record, Nodes(length=0), Edges(length=0))
    payload = contract.single(empty, {})
    contract.check(payload)
    assert payload["layers"] == []


def test_sizes_lie_between_zero_and_one_and_fall_back_to_cumulative_influence():
    circuit = with_nodes(
        make_circuit(), influence=[np.nan] * 4, influence_cumulative=[0.9, 0.5, 0.1, np.nan], probability=[np.nan] * 4
    )
    sizes = contract.single(circuit, {})["nodes"]["size"]
    assert sizes[2] == 1.0
    assert sizes[0] < sizes[1] < sizes[2]
    assert all(0 <= size <= 1 for size in sizes)


def test_the_difference_is_share_in_b_minus_share_in_a():
    a, b = make_circuit(weights=(0.5, -1.0, 2.0)), make_circuit(weights=(0.5, 1.0, 2.0))
    payload = contract.difference(a, b, {}, {})
    contract.check(payload)
    assert payload["mode"] == "diff"
    assert payload["links"]["w"] == [0.0, 1.0, 0.0]
    assert payload["links"]["a"] == [0.5, -0.5, 0.5]
    assert payload["links"]["b"] == [0.5, 0.5, 0.5]
    assert payload["links"]["c"] == [0, 0, 0]
    assert payload["nodes"]["side"] == [0, 0, 0, 0]


def test_what_only_one_circuit_has_is_marked_as_its_own():
    a, b = make_circuit(features=(6, 7)), make_circuit(features=(6, 8))
    payload = contract.difference(a, b, {1: "same"}, {1: "same", 2: "new"})
    contract.check(payload)
    sides = dict(zip(payload["nodes"]["label"], payload["nodes"]["side"], strict=True))
    assert sides["same"] == 0
    assert sides["feature 1/7"] == 1
    assert sides["new"] == 2
    assert sorted(payload["links"]["c"]) == [0, 1, 1, 2, 2]


def test_prompts_that_differ_in_one_token_share_its_column():
    payload = contract.difference(make_circuit("in Dallas is"), make_circuit("in Oakland is"), {}, {})
    assert payload["tokens"] == ["in", "Dallas / Oakland", "is"]


def test_tokens_of_one_prompt_alone_stand_in_reading_order():
    payload = contract.difference(make_circuit("a b c"), make_circuit("a new b c"), {}, {})
    contract.check(payload)
    assert payload["tokens"] == ["a", "new", "b", "c"]


def test_links_that_were_tested_carry_their_mark_and_others_none():
    circuit = make_circuit()
    one = EdgeMark(
        source=circuit.keys[1],
        target=circuit.keys[2],
        mark="refuted",
        predicted=-1.0,
        measured=np.nan,
        intervention="i",
    )
    gone = EdgeMark(source="feature/9/9/9", target=circuit.keys[2], mark="confirmed", intervention="i")
    payload = contract.single(circuit, {}, marks=[one, gone])
    contract.check(payload)
    assert payload["marks"] == {"link": [1], "mark": ["refuted"], "predicted": [-1.0], "measured": [None]}
    plain = contract.single(circuit, {})
    assert "marks" not in plain
    assert plain["rev"] != payload["rev"]
    assert "marks" not in contract.single(circuit, {}, marks=[gone])


def test_check_refuses_a_mark_on_a_link_that_is_not_there():
    circuit = make_circuit()
    mark = EdgeMark(source=circuit.keys[1], target=circuit.keys[2], mark="confirmed", intervention="i")
    payload = contract.single(circuit, {}, marks=[mark])
    with pytest.raises(ValueError, match="marks"):
        contract.check({**payload, "marks": {**payload["marks"], "link": [3]}})
    with pytest.raises(ValueError, match="measured"):
        contract.check({**payload, "marks": {**payload["marks"], "measured": []}})


def test_a_circuit_of_components_has_a_column_for_each_head_and_says_where_a_link_enters():
    circuit = component_circuit(layers=3, heads=4)
    payload = contract.single(circuit, {})
    contract.check(payload)
    assert payload["columns"] == "parts"
    assert payload["tokens"] == ["head 0", "head 1", "head 2", "head 3", "MLP"]
    x = dict(zip(payload["nodes"]["id"], payload["nodes"]["x"], strict=True))
    assert (x["head/2/-1/3"], x["mlp/1/-1/-1"], x["token/-1/-1/-1"]) == (3, 4, 2)
    assert payload["links"]["slot"][:4] == ["q", "k", "v", "direct"]
    names = dict(zip(payload["nodes"]["id"], payload["nodes"]["label"], strict=True))
    assert names["head/2/-1/3"] == "head 2.3"
    assert names["token/-1/-1/-1"] == "embeddings"
    assert names["logit/3/-1/-1"] == "logit-difference"


def test_circuits_of_positions_keep_their_columns_and_their_links_name_no_slot():
    payload = contract.single(make_circuit(), {})
    assert "columns" not in payload
    assert "slot" not in payload["links"]


@pytest.mark.samples
def test_the_largest_real_graph_fits_the_contract(sample_graphs):
    from atlas.settings import Settings
    from ingest import formats

    path = sample_graphs / "dollar.json.gz"
    circuit = formats.read_graph(path, path.name, Settings()).circuit
    payload = contract.single(circuit, {})
    contract.check(payload)
    assert len(payload["nodes"]["id"]) == len(set(payload["nodes"]["id"])) > 800
    assert len(payload["links"]["s"]) > 40_000
    assert len(json.dumps(payload)) < 1_500_000
