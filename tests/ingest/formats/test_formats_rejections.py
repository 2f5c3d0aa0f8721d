"""What cannot be used is rejected whole, in one sentence, with the place."""

import gzip
import json
import os
import time

import make_format_files as files
import pytest

from atlas import circuit_file
from atlas.errors import InputRejected
from atlas.settings import Settings
from ingest.formats import find_files, read_graph


def reject(source, settings, name="bad.json") -> InputRejected:
    with pytest.raises(InputRejected) as caught:
        read_graph(source, name, settings)
    error = caught.value
    assert name in error.message
    assert error.message.endswith(".")
    assert "\n" not in error.message
    assert error.hint
    return error


def with_value(where: str, value) -> bytes:
    """The circuit-tracer file with one value replaced; `where` is a path such as nodes.0.layer."""
    document = files.circuit_tracer()
    parent = document
    *steps, last = where.split(".")
    for step in steps:
        parent = parent[int(step)] if isinstance(parent, list) else parent[step]
    parent[int(last) if isinstance(parent, list) else last] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize("key", ["metadata", "nodes", "links"])
@pytest.mark.parametrize("value", [None, "text", 5, True])
def test_the_three_parts_must_be_there_and_of_their_type(settings, key, value):
    assert reject(with_value(key, value), settings).place == key
    document = files.circuit_tracer()
    del document[key]
    assert reject(json.dumps(document).encode(), settings).place == key


@pytest.mark.parametrize(
    "weight", ["NaN", "Infinity", "-Infinity", "1e999", "1e39", '"1"', "null", "true", "[]", "1" * 5000]
)
def test_a_weight_that_is_not_a_finite_number_is_named(settings, weight):
    text = with_value("links.3.weight", 12345.5).replace(b"12345.5", weight.encode())
    error = reject(text, settings)
    assert error.place == ("" if len(weight) > 1000 else "links[3].weight")


@pytest.mark.parametrize(
    ("where", "value", "place"),
    [
        ("links.2", "x", "links[2]"),
        ("links.2.source", 5, "links[2].source"),
        ("links.2.target", {"node_id": "x"}, "links[2].target"),
        ("nodes.1", [], "nodes[1]"),
        ("nodes.1.node_id", 7, "nodes[1].node_id"),
        ("nodes.1.ctx_idx", -1, "nodes[1].ctx_idx"),
        ("nodes.1.ctx_idx", 2**31, "nodes[1].ctx_idx"),
        ("nodes.1.ctx_idx", 1.5, "nodes[1].ctx_idx"),
        ("nodes.1.ctx_idx", None, "nodes[1].ctx_idx"),
        ("nodes.1.ctx_idx", True, "nodes[1].ctx_idx"),
        ("nodes.1.layer", "-1", "nodes[1].layer"),
        ("nodes.1.layer", "E", "nodes[1].layer"),
        ("nodes.1.layer", 2**31, "nodes[1].layer"),
        ("nodes.1.layer", "９", "nodes[1].layer"),
        ("nodes.1.layer", None, "nodes[1].layer"),
        ("nodes.3.layer", -2, "nodes[3].layer"),
        ("nodes.6.layer", "x", "nodes[6].layer"),
        ("nodes.1.layer", 2**31 - 1, "nodes"),
        ("nodes.1.feature", 2**63, "nodes[1].feature"),
        ("nodes.1.feature", 10**30, ""),
    ],
)
def test_the_place_of_a_fault_is_named(settings, where, value, place):
    data = with_value(where, value)
    if value == 10**30:  # such a number reads as a float, which is no feature number: the id tells the feature
        assert read_graph(data, "x", settings).mended == {"feature_number_disagrees": 1}
        return
    assert reject(data, settings).place == place


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"  \n",
        b"hello",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"7",
        b"\xff\xfe{\x00}\x00",
        b'{"a": "\xe9"}',
        b"PK\x03\x04rest",
        b"\x80\x02}q\x00.",
        b'{"graphs": []}',
        b'{"index": 3, "examples_quantiles": []}',
    ],
)
def test_what_is_no_graph_is_said_to_be_none(settings, data):
    reject(data, settings)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 900 + "]" * 900])
def test_deep_nesting_is_rejected(settings, text):
    assert (
        "nested deeper" in reject(text.encode(), settings).message
        or "not JSON" in reject(text.encode(), settings).message
    )
    inside = json.dumps(files.circuit_tracer()).replace('"the-cat"', "[" * 70 + "]" * 70).encode()
    assert "nested deeper than 64" in reject(inside, settings).message


def test_a_file_larger_than_the_limit_is_rejected_packed_or_not(tmp_path, settings):
    small = Settings(home=tmp_path, import_max_bytes=2000)
    data = json.dumps(files.circuit_tracer()).encode()
    assert len(data) > 2000
    assert "2000 bytes" in reject(data, small).message
    assert "2000 bytes" in reject(gzip.compress(data), small).message
    assert len(read_graph(data, "x", settings).circuit.nodes) == 8


def test_a_file_made_to_fill_the_memory_is_stopped_early(settings):
    bomb = gzip.compress(b" " * (64 * 2**20))
    assert "times its size" in reject(bomb, settings).message


def test_too_many_values_are_refused_before_they_take_memory(settings):
    assert "values" in reject(b"[" + b"0," * 40_000_001 + b"0]", settings).message


@pytest.mark.parametrize("cut", [3, 12, 200, -5])
def test_a_truncated_or_damaged_gzip_is_rejected(settings, cut):
    packed = gzip.compress(json.dumps(files.circuit_tracer()).encode())
    assert "gzip" in reject(packed[:cut], settings).message
    broken = packed[:100] + bytes([packed[100] ^ 255]) + packed[101:]
    reject(broken, settings)


def test_paths_that_cannot_be_read_are_rejected(tmp_path, settings):
    reject(tmp_path / "absent.json", settings, "absent.json")
    reject(tmp_path, settings, tmp_path.name)
    os.mkfifo(tmp_path / "pipe.json")
    reject(tmp_path / "pipe.json", settings, "pipe.json")


def test_a_torch_file_is_not_opened(tmp_path, settings):
    path = tmp_path / "graph.pt"
    path.write_bytes(json.dumps(files.circuit_tracer()).encode())
    assert "not opened" in reject(path, settings, "graph.pt").message


def test_byte_order_mark_and_gzip_under_any_name_are_read(tmp_path, settings):
    data = b"\xef\xbb\xbf" + json.dumps(files.circuit_tracer()).encode()
    expected = read_graph(data, "x", settings).circuit.id
    for name, content in (("a.json", data), ("b.json", gzip.compress(data)), ("c.json.gz", gzip.compress(data))):
        (tmp_path / name).write_bytes(content)
        assert read_graph(tmp_path / name, settings=settings).circuit.id == expected


def test_circuit_files_are_read_by_content_and_bad_ones_rejected(tmp_path, settings, make_circuit):
    circuit = make_circuit()
    blob = circuit_file.to_bytes(circuit)
    graph = read_graph(blob, "x", settings)
    assert (graph.dialect, graph.circuit.id, graph.mended) == ("circuit", circuit.id, {})
    reject(blob[:-10], settings)
    reject(blob.replace(b'"schema_version":"1"', b'"schema_version":"9"'), settings)
    circuit.edges.weight[0] = float("nan")
    assert reject(circuit_file.to_bytes(circuit), settings).place == "edges.weight"


def test_folders_are_searched_and_files_taken_as_named(tmp_path):
    for name in (
        "b/deep/x.json",
        "b/y.JSON.gz",
        "b/c.circuit",
        "b/s.safetensors",
        "b/old.pt",
        "b/notes.md",
        "named.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "b" / "graph-metadata.json").touch()
    found = find_files([tmp_path / "named.txt", tmp_path / "b", tmp_path / "absent.json"])
    assert [str(path.relative_to(tmp_path)) for path in found] == [
        "named.txt",
        "b/c.circuit",
        "b/deep/x.json",
        "b/old.pt",
        "b/s.safetensors",
        "b/y.JSON.gz",
        "absent.json",
    ]


def test_text_that_no_database_can_hold_is_mended(settings):
    text = json.dumps(files.circuit_tracer()).replace(" cat", "\\ud800\\u0000cat")
    graph = read_graph(text.encode(), "x", settings)
    assert graph.circuit.tokens[2] == "\ufffd\ufffdcat"
    assert graph.mended == {"broken_text": 2}
    assert graph.circuit.record.model_dump_json()


def test_thousands_of_nodes_of_one_id_and_links_among_them_take_no_quadratic_time(settings):
    nodes = [files.feature(layer, 5, 0, 5, node_id="same") for layer in range(3000)]
    link = {"source": "same", "target": "same", "weight": 1.0}
    document = {"metadata": {}, "nodes": nodes, "links": [link] * 6000}
    start = time.process_time()
    graph = read_graph(json.dumps(document).encode(), "x", settings)
    assert time.process_time() - start < 10  # 0.6 s; all pairs of candidates would be 5e10
    assert len(graph.circuit.nodes) == 3000
    assert graph.mended["ambiguous_links"] == 6000
