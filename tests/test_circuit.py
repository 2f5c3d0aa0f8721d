"""Identity, shares and the binary form of a circuit."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from atlas import circuit_file
from atlas.circuit import (
    KINDS,
    Circuit,
    CircuitRecord,
    Edges,
    Example,
    Nodes,
    Target,
    duplicate_identities,
    feature_key,
    parse_feature_key,
)
from atlas.edges import head_weights, stored_parts
from atlas.errors import AtlasError, InputRejected, NotFound, SchemaMismatch
from tests.conftest import make_circuit

DATA = Path(__file__).parent / "data"
finite = st.floats(-1e6, 1e6, width=32)


@st.composite
def circuits(draw) -> Circuit:
    count = draw(st.integers(1, 12))
    links = draw(st.integers(0, 20))
    column = lambda elements, dtype, n=count: draw(hnp.arrays(dtype, n, elements=elements))  # noqa: E731
    maybe = st.one_of(finite, st.just(float("nan")))
    nodes = Nodes(
        kind=column(st.integers(0, len(KINDS) - 1), np.uint8),
        layer=column(st.integers(-1, 40), np.int32),
        position=column(st.integers(-1, 9), np.int32),
        index=np.arange(count) * draw(st.integers(1, 2**40)),
        activation=column(maybe, np.float32),
        influence=column(maybe, np.float32),
    )
    ends = st.integers(0, count - 1)
    edges = Edges(
        source=column(ends, np.uint32, links),
        target=column(ends, np.uint32, links),
        weight=column(finite, np.float32, links),
    )
    words = draw(st.lists(st.text(max_size=5), max_size=4))
    record = CircuitRecord(
        prompt=" ".join(words), examples=[Example(tokens=words)], targets=[Target(what="x", token_id=1)]
    )
    return Circuit(record, nodes, edges, extra={"more.values": np.arange(3, dtype=np.int16)})


def shuffled(circuit: Circuit, seed: int) -> Circuit:
    rng = np.random.default_rng(seed)
    order, links = rng.permutation(len(circuit.nodes)), rng.permutation(len(circuit.edges))
    rank = np.argsort(order)
    e = circuit.edges.take(links)
    edges = Edges(source=rank[e.source], target=rank[e.target], weight=e.weight, slot=e.slot)
    return Circuit(circuit.record, circuit.nodes.take(order), edges)


@given(circuits(), st.integers(0, 100))
def test_the_id_does_not_depend_on_the_order_of_rows(circuit: Circuit, seed: int) -> None:
    assert shuffled(circuit, seed).id == circuit.id


@given(circuits())
def test_the_binary_form_gives_back_every_column_and_the_record(circuit: Circuit) -> None:
    back = circuit_file.from_bytes(circuit_file.to_bytes(circuit))
    assert back.id == circuit.id
    assert back.record == circuit.record
    for mine, theirs in ((circuit.nodes, back.nodes), (circuit.edges, back.edges)):
        for name, column in mine.columns().items():
            np.testing.assert_array_equal(column, theirs.columns()[name])
    np.testing.assert_array_equal(back.extra["more.values"], circuit.extra["more.values"])


@pytest.mark.parametrize("change", ["weight", "activation", "token", "target", "model"])
def test_the_id_changes_with_any_content(change: str) -> None:
    base, other = make_circuit(), make_circuit()
    if change == "weight":
        other.edges.weight[0] += 0.25
    elif change == "activation":
        other.nodes.activation[1] += 0.25
    elif change == "token":
        other.record.examples[0].tokens[0] = "z"
    elif change == "target":
        other.record.targets[0].what = "y"
    else:
        other.record.model.name = "another"
    assert other.id != base.id


def test_derived_numbers_names_and_provenance_are_not_content() -> None:
    base, other = make_circuit(), make_circuit()
    other.nodes.influence[:] = 0.5
    other.record.name = "renamed"
    other.record.provenance.device = "cuda"
    other.record.targets[0].probability = 0.1
    assert other.id == base.id


def test_traces_that_differ_in_a_float_share_the_trace_key_but_not_the_id() -> None:
    base, replicate = make_circuit(), make_circuit(weights=(0.5, -1.0, 2.0000002))
    assert replicate.trace_key == base.trace_key
    assert replicate.prompt_key == base.prompt_key
    assert replicate.id != base.id
    assert make_circuit("a c").prompt_key != base.prompt_key


def test_shares_use_the_totals_from_before_pruning_and_fall_back_to_kept_edges() -> None:
    circuit = make_circuit()
    np.testing.assert_allclose(circuit.edge_shares, [0.5 / 1, 1.0 / 2, 2.0 / 4])
    circuit = make_circuit()
    circuit.nodes.input_abs_total[:] = np.nan
    np.testing.assert_allclose(circuit.edge_shares, [1, 1, 1])
    assert not circuit.input_abs_totals[1].any()


def test_adjacency_has_targets_as_rows() -> None:
    matrix = make_circuit().adjacency().toarray()
    assert matrix[1, 0] == np.float32(0.5)
    assert matrix[0, 1] == 0


def test_a_node_of_another_kind_at_the_same_place_stays_apart() -> None:
    nodes = Nodes(kind=[0, 1, 0], layer=[0, 0, 0], position=[1, 1, 1], index=[2, 2, 2])
    assert duplicate_identities(nodes).tolist() == [False, False, True]


@given(st.text(min_size=1, max_size=8), st.text(min_size=1, max_size=8), st.integers(0, 99), st.integers(0, 2**40))
def test_feature_keys_round_trip_with_any_name(model: str, transcoders: str, layer: int, index: int) -> None:
    key = feature_key(model, transcoders, layer, index)
    assert parse_feature_key(key) == (model, transcoders, layer, index)
    assert key.count("/") == 3


@pytest.mark.parametrize("key", ["", "a/b/1", "a/b/1/x", "a/b/-1/2", "a/b/c/1/2"])
def test_what_is_no_feature_key_is_said_so(key: str) -> None:
    with pytest.raises(NotFound, match="not a feature key"):
        parse_feature_key(key)


def test_node_keys_are_unique_and_name_kind_layer_position_index() -> None:
    circuit = make_circuit()
    assert circuit.keys == ["token/-1/0/5", "feature/0/1/6", "feature/1/1/7", "logit/2/1/3"]
    assert circuit.row("feature/1/1/7") == 2
    with pytest.raises(NotFound, match="no node"):
        circuit.row("feature/9/9/9")


def test_a_file_of_schema_version_1_is_read_for_ever() -> None:
    circuit = circuit_file.from_bytes((DATA / "circuit-v1.safetensors").read_bytes())
    assert circuit.id == "c1-796d2744cbbc8de4b167" == make_circuit().id
    assert circuit.record.targets[0].what == "x"


def test_a_newer_schema_version_is_one_sentence() -> None:
    blob = circuit_file.to_bytes(make_circuit()).replace(b'"schema_version":"1"', b'"schema_version":"9"')
    with pytest.raises(SchemaMismatch, match="version 9; this program reads up to 1"):
        circuit_file.from_bytes(blob)


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_file_is_always_refused_in_one_sentence(data) -> None:
    blob = bytearray(circuit_file.to_bytes(make_circuit()))
    header = int.from_bytes(blob[:8], "little")
    if data.draw(st.booleans()):
        blob = blob[: data.draw(st.integers(0, len(blob) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            blob[data.draw(st.integers(0, header + 40))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(AtlasError):  # anything else that escapes fails the test
        circuit_file.from_bytes(bytes(blob))


PARTS = {
    "heads.edge": np.zeros(2, np.uint32),
    "heads.layer": np.zeros(2, np.int16),
    "heads.head": np.array([-1, 0], np.int16),
    "heads.source_position": np.zeros(2, np.int32),
    "heads.weight": np.array([0.25, 0.25], np.float32),
}


def test_parts_of_edges_come_back_as_they_went() -> None:
    circuit = make_circuit()
    circuit.extra.update(PARTS)
    back = circuit_file.from_bytes(circuit_file.to_bytes(circuit))
    assert head_weights(back) == {0: (0.25, {"0.0": 0.25})}
    assert [part.way for part in stored_parts(back, 0)] == ["straight", "head"]
    assert head_weights(make_circuit()) == {}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"heads.weight": None}, "not all there"),
        ({"heads.layer": np.zeros(3, np.int16)}, "not all there, in one length"),
        ({name: column.reshape(1, 2) for name, column in PARTS.items()}, "not all there, in one length"),
        ({"heads.edge": np.array([0, 3], np.uint32)}, "names an edge that is not there"),
        ({"heads.edge": np.array([-1, 0], np.int32)}, "names an edge that is not there"),
        ({"heads.head": np.zeros(2, np.float32)}, "another dtype"),
        ({"heads.weight": np.zeros(2, np.int32)}, "another dtype"),
        ({"heads.weight": np.array([0, np.nan], np.float32)}, "not finite"),
    ],
)
def test_parts_that_fit_no_edge_are_refused_in_one_sentence(changed, said) -> None:
    circuit = make_circuit()
    circuit.extra.update({name: column for name, column in (PARTS | changed).items() if column is not None})
    with pytest.raises(InputRejected, match=f"is not a whole circuit file: .*{said}"):
        circuit_file.from_bytes(circuit_file.to_bytes(circuit))


def test_numpy_alone_reads_the_file() -> None:
    blob = circuit_file.to_bytes(make_circuit())
    length = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + length])
    begin, end = header["edges.weight"]["data_offsets"]
    weights = np.frombuffer(blob[8 + length + begin : 8 + length + end], "<f4")
    np.testing.assert_array_equal(weights, np.float32([0.5, -1, 2]))
    assert json.loads(header["__metadata__"]["kinds"])[0] == "feature"


def test_an_edge_to_nowhere_is_refused() -> None:
    with pytest.raises(InputRejected, match="row that does not exist"):
        Circuit(CircuitRecord(), Nodes(kind=[0]), Edges(source=[0], target=[1], weight=[1.0]))


def test_to_pandas_names_kinds_and_shares() -> None:
    nodes, edges = make_circuit().to_pandas()
    assert nodes["kind"].tolist() == ["token", "feature", "feature", "logit"]
    assert nodes["token"].tolist() == ["a", "b", "b", "x"]
    assert edges["share"].tolist() == [0.5, 0.5, 0.5]
