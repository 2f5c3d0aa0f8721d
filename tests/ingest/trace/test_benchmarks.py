"""The benchmarks of tracing, on cases of a second."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks import trace_dtypes, trace_flops, trace_large_set, trace_reference, trace_scaling
from ingest.models import load_model
from ingest.trace import attribute
from ingest.trace.attribute import Prepared
from ingest.trace.backward import Backward
from ingest.transcoders import load_transcoders, parts
from tests.ingest.trace.test_reference import FAMILY_DATA, reference


@pytest.mark.parametrize("pair", ["qwen2/plt_relu", "qwen3/plt_jumprelu_skip", "gpt2/plt_skip", "gpt_neox/plt_skip"])
def test_multiply_adds_are_beside_those_of_carrying_every_target_down(pair, monkeypatch):
    model = load_model(FAMILY_DATA / pair.split("/")[0] / "model", device="cpu")
    parts = load_transcoders(FAMILY_DATA / pair, model)
    ids = reference(f"{pair}/long")["input_ids"].tolist()
    together = trace_flops.count(model, parts, ids)
    # so small a model saves calls by carrying positions together, at the price of products with zeros
    monkeypatch.setattr(Backward, "walk_work", 0.0)
    counted = trace_flops.count(model, parts, ids)
    assert counted.least == together.least
    assert counted.multiple < together.multiple < 5
    assert counted.edges == attribute(model, parts, ids).matrix.nnz
    monkeypatch.setattr(Prepared, "meet", lambda *_: None)
    down = trace_flops.count(model, parts, ids)
    assert down.least == counted.least
    assert 1 <= down.multiple < 2
    assert 0.5 < counted.multiple < down.multiple


def test_half_precision_is_near_and_float32_is_itself():
    found = trace_dtypes.measure(["gemma2/plt_skip_inner"])["gemma2/plt_skip_inner"]
    assert set(found) == {"bfloat16", "float16"}
    for row in found.values():
        assert row["overlap_least"] > 0.9
        assert row["edges_least"] > 0.99
        assert row["influence_least"] > 0.99
    assert found["float16"]["edges"] > found["bfloat16"]["edges"]


def test_scaling_gives_an_exponent_for_each_size():
    found = trace_scaling.measure(trace_scaling.TINY, doublings=1, repeat=1)
    assert set(found) == {"base", "layers", "width", "features", "active", "tokens"}
    assert found["layers"]["exponents"]["multiply_adds"] > 1  # twice the rows, and each has farther to go
    assert found["width"]["sizes"] == [32, 64]


def test_files_of_a_pair_in_memory_trace_alike_and_one_engine_reports_itself(tmp_path):
    model, parts, ids = trace_scaling.build(trace_scaling.TINY)
    folders = trace_reference.write_pair(model, parts, tmp_path)
    command = [sys.executable, str(trace_reference.SIDE), "ours", *map(str, folders), "--repeat", "1", "--flops"]
    done = subprocess.run([*command, "--ids", ",".join(map(str, ids))], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    graph = attribute(model, parts, ids)
    assert (found["nodes"], found["edges"]) == (graph.order.size, graph.matrix.nnz)
    assert found["multiply_adds"] > trace_flops.spent(model, parts, ids)
    failed = subprocess.run([*command, "--ids", "5,100000"], capture_output=True, text=True, check=True)
    assert "failed" in json.loads(failed.stdout)


@pytest.mark.slow
def test_a_long_prompt_is_traced_both_ways_to_the_same_circuit_and_kept_beside_others(tmp_path):
    kept = tmp_path / "trace-long.json"
    kept.write_text(json.dumps({"before": {"nodes": 1}}))
    command = [sys.executable, "-m", "benchmarks.trace_long", "--random", "small", "--tokens", "6"]
    done = subprocess.run([*command, "--both", "--results", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(kept.read_text())
    assert set(found) == {"before", "small, 6 tokens, whole", "small, 6 tokens, streamed"}
    row = found["small, 6 tokens, streamed"]
    assert row["streamed"]
    assert row["differences"]["nodes_in_one_only"] == row["differences"]["edges_in_one_only"] == 0
    assert row["differences"]["weights_relative"] < 1e-6
    assert row["differences"]["scores_relative"] < 1e-6
    assert row["peak_above_mib"] > 0
    assert row["nodes"] > row["kept_nodes"] > 10


def test_a_set_that_stays_in_its_files_traces_like_one_that_is_copied(tmp_path, monkeypatch):
    monkeypatch.setitem(trace_large_set.SMOLLM2, "num_hidden_layers", 2)
    trace_large_set.write_set(tmp_path, 4096)
    copied = trace_large_set.measure(tmp_path)
    monkeypatch.setattr(parts, "RESIDENT_SHARE", 0)
    mapped = trace_large_set.measure(tmp_path)
    assert copied["features"] == mapped["features"] > 0
    assert copied["edges"] == mapped["edges"] > 0
    assert mapped["own_peak_mib"] >= mapped["own_before_mib"] > 0
