"""Whatever the bytes are, reading them gives a graph or InputRejected, and nothing else."""

import copy
import gzip
import json
import os
from contextlib import suppress

import make_format_files as files
import pytest
from hypothesis import HealthCheck, given, settings, target
from hypothesis import strategies as st

from atlas import circuit_file
from atlas.circuit import Circuit
from atlas.errors import InputRejected
from atlas.settings import Settings
from ingest.formats import read_graph, write_neuronpedia
from tests.conftest import make_circuit

LIMITS = Settings(home="/nowhere", import_max_bytes=2**24)
# ATLAS_FUZZ_EXAMPLES=20000 searches at random instead of repeating a fixed short run.
LONGER = int(os.environ.get("ATLAS_FUZZ_EXAMPLES") or 0)
FEW = settings(
    max_examples=LONGER or 40, derandomize=not LONGER, deadline=None, suppress_health_check=list(HealthCheck)
)
MANY = settings(FEW, max_examples=LONGER or 120)


def read(data: bytes) -> Circuit | None:
    """The circuit, None when rejected. What was read must also be usable: hashed, stored and written."""
    try:
        graph = read_graph(data, "fuzz", LIMITS)
    except InputRejected:
        return None
    circuit = graph.circuit
    assert len(set(circuit.keys)) == len(circuit.nodes)
    stored = circuit_file.to_bytes(circuit)
    assert circuit_file.from_bytes(stored).id == circuit.id
    assert graph.annotations.model_dump_json()
    again = read_graph(write_neuronpedia(circuit, graph.annotations, {}), "again", LIMITS)
    assert again.circuit.id == circuit.id
    return circuit


strange = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63) - 1, 10**400]),
    st.integers(),
    st.floats(),
    st.sampled_from(["", "E", "-1", "0", "0_1_2", "x" * 300, "\ud800", "\x00", "１", "a,b", '[["x"]]', "custom-1"]),
    st.text(max_size=8),
)
anything = st.recursive(
    strange,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["nodes", "links", "metadata", "qParams", "node_id", "source", "version"])
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@MANY
@given(anything)
def test_any_json_is_read_or_rejected(value):
    read(json.dumps(value).encode())


@MANY
@given(anything, anything, anything, anything)
def test_any_json_in_the_three_parts_is_read_or_rejected(metadata, view, nodes, links):
    read(json.dumps({"metadata": metadata, "qParams": view, "nodes": nodes, "links": links}).encode())
    read(json.dumps({"metadata": {}, "qParams": view, "nodes": [nodes], "links": [links]}).encode())


@FEW
@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_rejected(data):
    read(data)
    read(gzip.compress(data))
    read(len(data).to_bytes(8, "little") + b"{" + data)


def places(value, path=()):
    """Every path into nested lists and objects."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def exported() -> dict:
    return json.loads(write_neuronpedia(make_circuit(), None, {1: "label"}))


SHAPES = {**{name: make() for name, make in files.FILES.items()}, "exported": exported()}
PLACES = {name: list(places(shape))[1:] for name, shape in SHAPES.items()}


def mutate(document, path, action, value):
    """Drop, replace, repeat or rename what is at `path`; paths made stale by an earlier mutation are skipped."""
    parent = document
    try:
        for step in path[:-1]:
            parent = parent[step]
        last, old = path[-1], parent[path[-1]]
    except (KeyError, IndexError, TypeError):
        return
    if action == "drop":
        del parent[last]
    elif action == "replace":
        parent[last] = value
    elif action == "wrap":
        parent[last] = [old]
    elif action == "as text":
        parent[last] = str(old)
    elif isinstance(parent, list):
        parent.insert(0, copy.deepcopy(old))


mutation = st.tuples(
    st.integers(0, 10**6), st.sampled_from(["drop", "replace", "replace", "wrap", "as text", "repeat"]), anything
)


@MANY
@given(st.sampled_from(sorted(SHAPES)), st.lists(mutation, min_size=1, max_size=4))
def test_any_field_dropped_replaced_or_retyped_is_read_or_rejected(name, mutations):
    document = copy.deepcopy(SHAPES[name])
    for number, action, value in mutations:
        mutate(document, PLACES[name][number % len(PLACES[name])], action, value)
    circuit = read(json.dumps(document).encode())
    target(float(circuit is not None))


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_every_single_field_dropped_is_read_or_rejected(name):
    kept = 0
    for path in PLACES[name]:
        if len(path) > 2 and path[0] in ("nodes", "links") and path[1] > 0:
            continue  # the first of each kind of entry stands for the others
        document = copy.deepcopy(SHAPES[name])
        mutate(document, path, "drop", None)
        kept += read(json.dumps(document).encode()) is not None
    assert kept > 10 or name in ("llamascopium", "attribute")


@FEW
@given(st.integers(0, 10**6), st.integers(0, 255), st.booleans())
def test_damaged_and_cut_files_are_read_or_rejected(at, byte, cut):
    for data in (
        json.dumps(SHAPES["neuronpedia"]).encode(),
        gzip.compress(json.dumps(SHAPES["exported"]).encode(), mtime=0),
        circuit_file.to_bytes(make_circuit()),
    ):
        place = at % len(data)
        broken = data[:place] if cut else data[:place] + bytes([byte]) + data[place + 1 :]
        with suppress(InputRejected):
            read_graph(broken, "fuzz", LIMITS)
