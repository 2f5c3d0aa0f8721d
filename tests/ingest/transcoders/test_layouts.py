"""Every layout gives the graph that the same numbers give in circuit-tracer's layout."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from ingest.trace import attribute
from ingest.transcoders import load_transcoders
from ingest.transcoders.npz import read_npz
from tests.ingest.transcoders import conftest as made

IDS = [1, 5, 9, 13, 21]


def graph(model, folder):
    transcoders = load_transcoders(folder, model)
    assert sum(layer.n_features for layer in transcoders.layers) == made.LAYERS * made.FEATURES
    return attribute(model, transcoders, IDS)


def assert_same(ours, theirs) -> None:
    assert len(theirs.features) > 20
    assert np.array_equal(ours.features, theirs.features)
    ours_matrix, theirs_matrix = ours.matrix.toarray(), theirs.matrix.toarray()
    assert np.linalg.norm(ours_matrix - theirs_matrix) <= 1e-6 * np.linalg.norm(theirs_matrix)
    np.testing.assert_allclose(ours.constants, theirs.constants, atol=1e-5)


@pytest.fixture(params=[False, True], ids=["resident", "in its files"])
def lazy(request, monkeypatch) -> bool:
    if request.param:
        monkeypatch.setattr("ingest.transcoders.parts.RESIDENT_SHARE", 0)
    return request.param


@pytest.mark.parametrize("compressed", [False, True])
def test_gemma_scope_reads_before_the_weight_of_the_norm_and_writes_after_the_post_norm(
    model, tmp_path, compressed, lazy
):
    folder, layers = made.plain(tmp_path / "plain", "ln2.hook_normalized", "hook_mlp_out", jump=True)
    other = made.gemma_scope(tmp_path / "other", layers, compressed)
    assert_same(graph(model, other), graph(model, folder))


def test_gemma_scope_2_with_affine_skips(model, tmp_path, lazy):
    folder, layers = made.plain(tmp_path / "plain", "mlp.hook_in", "hook_mlp_out", jump=True, skip=True)
    assert_same(graph(model, made.gemma_scope_2(tmp_path / "other", layers)), graph(model, folder))


def test_gemma_scope_2_across_layers(model, tmp_path, lazy):
    folder, layers = made.cross_layer(tmp_path / "plain")
    other = tmp_path / "other"
    other.mkdir()
    for i, tensors in enumerate(layers):
        save_file(tensors, other / f"params_layer_{i}.safetensors")
    (other / "config.json").write_text(made.gemma_scope_2_config(0, type="clt"))
    assert_same(graph(model, other), graph(model, folder))


def test_a_config_that_lists_files_of_any_kind(model, tmp_path, lazy):
    folder, layers = made.plain(tmp_path / "plain", "ln2.hook_normalized", "hook_mlp_out", jump=True)
    other = made.gemma_scope(tmp_path / "other", layers)
    save_file(made.gemma_scope_2_tensors(layers[1]), other / "second.safetensors")
    shutil.copyfile(folder / "layer_2.safetensors", other / "third.safetensors")
    table = yaml.safe_load((folder / "config.yaml").read_text())
    table["transcoders"] = ["layer_0/width_16k/average_l0_20/params.npz", "second.safetensors", "./third.safetensors"]
    (other / "config.yaml").write_text(yaml.safe_dump(table))
    assert_same(graph(model, other), graph(model, folder))


def test_a_config_that_lists_cross_layer_files(model, tmp_path):
    folder, layers = made.cross_layer(tmp_path / "plain")
    other = tmp_path / "other"
    other.mkdir()
    for i, tensors in enumerate(layers):
        save_file(tensors, other / f"part{i}.safetensors")
    table = yaml.safe_load((folder / "config.yaml").read_text())
    table["transcoders"] = [f"part{i}.safetensors" for i in range(made.LAYERS)]
    (other / "config.yaml").write_text(yaml.safe_dump(table))
    assert_same(graph(model, other), graph(model, folder))


@pytest.mark.parametrize("jump", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_saelens_transcoders(model, tmp_path, jump, skip, lazy):
    folder, layers = made.plain(tmp_path / "plain", "ln2.hook_normalized", "hook_mlp_out", jump=jump, skip=skip)
    other = made.saelens(tmp_path / "other", layers, "ln2.hook_normalized", "hook_mlp_out", in_metadata=skip)
    assert_same(graph(model, other), graph(model, folder))


def test_saelens_keeps_the_k_largest_and_of_those_the_positive(model, tmp_path):
    _, layers = made.plain(tmp_path / "plain", "mlp.hook_in", "mlp.hook_out")
    arguments = {"activation_fn": "topk", "activation_fn_kwargs": {"k": 30}}
    old = made.saelens(tmp_path / "old", layers, "mlp.hook_in", "mlp.hook_out", architecture="standard", **arguments)
    new = made.saelens(tmp_path / "new", layers, "mlp.hook_in", "mlp.hook_out", architecture="topk_transcoder", k=30)
    layer = load_transcoders(new, model).layers[0]
    inputs = torch.randn(7, made.WIDTH, generator=torch.Generator().manual_seed(0))
    pre = inputs @ layers[0]["W_enc"].T + layers[0]["b_enc"]
    values, places = pre.topk(30, dim=-1)
    assert (values < 0).any()
    assert (values > 0).any()
    expected = torch.zeros_like(pre).scatter(-1, places, values.relu())
    torch.testing.assert_close(layer.encode(inputs), expected)
    assert_same(graph(model, old), graph(model, new))


def test_saelens_has_a_relu_beside_a_threshold_below_0(model, tmp_path):
    _, layers = made.plain(tmp_path / "plain", "mlp.hook_in", "mlp.hook_out", jump=True)
    layers[0]["activation_function.threshold"] -= 5
    layer = load_transcoders(made.saelens(tmp_path / "set", layers, "mlp.hook_in", "mlp.hook_out"), model).layers[0]
    inputs = torch.randn(7, made.WIDTH, generator=torch.Generator().manual_seed(0))
    pre = inputs @ layers[0]["W_enc"].T + layers[0]["b_enc"]
    threshold = layers[0]["activation_function.threshold"]
    assert ((pre < 0) & (pre > threshold)).any()
    torch.testing.assert_close(layer.encode(inputs), pre.relu() * (pre > threshold))


def test_the_module_names_of_saelens_own_conversion_are_looked_at_first(model, tmp_path):
    folder, layers = made.plain(tmp_path / "plain", "mlp.hook_in", "hook_mlp_out")
    other = made.saelens(tmp_path / "other", layers, "hook_mlp_in", "hook_mlp_out")
    for i, file in enumerate(sorted(other.glob("*/cfg.json"))):
        table = json.loads(file.read_text())
        table["metadata"]["hf_hook_name"] = f"model.layers.{i}.pre_feedforward_layernorm.output"
        file.write_text(json.dumps(table))
    assert_same(graph(model, other), graph(model, folder))


def test_files_of_one_name_are_told_apart_in_the_hash_of_a_set(model, tmp_path):
    _, layers = made.plain(tmp_path / "plain", "ln2.hook_normalized", "hook_mlp_out", jump=True)
    first = load_transcoders(made.gemma_scope(tmp_path / "first", layers), model)
    swapped = load_transcoders(made.gemma_scope(tmp_path / "swapped", [layers[1], layers[0], layers[2]]), model)
    assert first.hash != swapped.hash
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(tmp_path / 'first').as_posix()}\n"
        for file in sorted((tmp_path / "first").rglob("params.npz"))
    ]
    assert first.hash == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_arrays_of_an_npz_are_mapped_where_they_are_stored_plainly(tmp_path):
    arrays = {
        "rows": np.arange(12, dtype=np.float32).reshape(3, 4),
        "columns": np.asfortranarray(np.arange(12, dtype=np.float16).reshape(3, 4)),
        "big_endian": np.arange(3, dtype=">f8"),
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.float32(3),
    }
    np.savez(tmp_path / "plain.npz", **arrays)
    np.savez_compressed(tmp_path / "compressed.npz", **arrays)
    for name in ("plain", "compressed"):
        read = read_npz(tmp_path / f"{name}.npz")
        assert {key: tensor.tolist() for key, tensor in read.items()} == {k: v.tolist() for k, v in arrays.items()}
    before = read_npz(tmp_path / "plain.npz")["rows"]
    content = (tmp_path / "plain.npz").read_bytes()
    at = content.index(arrays["rows"].tobytes())
    with open(tmp_path / "plain.npz", "r+b") as file:
        file.seek(at)
        file.write(struct.pack("<f", 77))
    assert before[0, 0] == 77, "the tensor is the file"
