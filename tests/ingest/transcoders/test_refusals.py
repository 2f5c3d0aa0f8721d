"""A set that cannot be used is refused in one sentence that says where and why."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from atlas.errors import ModelRejected
from ingest.transcoders import load_transcoders
from tests.ingest.trace.test_refusals import refusal
from tests.ingest.transcoders import conftest as made


def refused(words: str, folder, model) -> ModelRejected:
    return refusal(ModelRejected, words, load_transcoders, folder, model)


@pytest.fixture
def layers(tmp_path):
    return made.plain(tmp_path / "plain", "ln2.hook_normalized", "hook_mlp_out", jump=True)[1]


def rewrite(file, **changes):
    """Change tables or tensors of a file; None takes one out."""
    if file.suffix == ".json":
        kept = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({key: value for key, value in kept.items() if value is not None}))
    else:
        kept = (dict(np.load(file)) if file.suffix == ".npz" else load_file(file)) | changes
        kept = {key: value for key, value in kept.items() if value is not None}
        np.savez(file, **kept) if file.suffix == ".npz" else save_file(kept, file)
    return file


def test_gemma_scope_with_several_choices_for_a_layer(model, tmp_path, layers):
    folder = made.gemma_scope(tmp_path / "set", layers)
    twin = folder / "layer_1" / "width_16k" / "average_l0_80"
    twin.mkdir()
    np.savez(twin / "params.npz", **made.as_numpy(layers[1]))
    error = refused("2 choices for layer 1: layer_1/width_16k/average_l0_21 and .*average_l0_80", folder, model)
    assert "config.yaml" in error.hint
    chosen = [f"layer_{i}/width_16k/average_l0_{80 if i == 1 else 20 + i}/params.npz" for i in range(made.LAYERS)]
    table = {"feature_input_hook": "ln2.hook_normalized", "feature_output_hook": "hook_mlp_out", "transcoders": chosen}
    (folder / "config.yaml").write_text(yaml.safe_dump(table))
    assert "average_l0_80" in load_transcoders(folder, model).layers[1].place


def test_gemma_scope_with_bad_files(model, tmp_path, layers):
    folder = made.gemma_scope(tmp_path / "set", layers)
    file = folder / "layer_2/width_16k/average_l0_22/params.npz"
    good = file.read_bytes()
    for words, changes in {
        "no tensor W_dec": {"W_dec": None},
        "no tensor threshold": {"threshold": None},
        "width 30, the model .* 24": {"W_enc": np.zeros((30, made.FEATURES), np.float32)},
        "W_dec in .* has the shape \\(40, 30\\), not \\(40, 24\\)": {"W_dec": np.zeros((40, 30), np.float32)},
        "1 dimensions, not 2": {"W_enc": np.zeros(5, np.float32)},
        "no floating-point": {"b_enc": np.zeros(made.FEATURES, np.int64)},
        "not a readable .npz": {"b_enc": np.array([{}], dtype=object)},
        "b_dec .* NaN or infinity": {"b_dec": np.full(made.WIDTH, np.inf, np.float32)},
    }.items():
        refused(words, (rewrite(file, **changes), folder)[1], model)
        file.write_bytes(good)
    for damaged in (
        good[: len(good) // 2],
        good[:100],
        b"PK\x03\x04" + good[2000:],
        good.replace(b"\x93NUMPY", b"\x93NOTPY"),
    ):
        file.write_bytes(damaged)
        refused("not a readable .npz", folder, model)
    file.write_bytes(b"")
    refused("not a readable safetensors", folder, model)
    file.unlink()
    refused("has 2 layers, the model .* 3", folder, model)
    np.savez_compressed(file, **made.as_numpy(layers[2]))
    content = bytearray(file.read_bytes())
    content[500:520] = bytes(20)
    file.write_bytes(content)
    refused("not a readable .npz", folder, model)


def test_gemma_scope_of_another_number_of_layers(model, tmp_path, layers):
    refused("has 4 layers, the model .* 3", made.gemma_scope(tmp_path / "more", [*layers, layers[0]]), model)
    folder = made.gemma_scope(tmp_path / "less", layers)
    (folder / "layer_0/width_16k/average_l0_20/params.npz").unlink()
    refused("lacks layer_0/", folder, model)


def test_the_saes_of_gemma_scope_are_told_by_their_repository(model, tmp_path, layers):
    folder = made.gemma_scope(tmp_path / "models--google--gemma-scope-2b-pt-res", layers)
    refused("SAEs of hook_resid_post, not transcoders", folder, model)


def test_gemma_scope_2_with_a_config_that_cannot_be_followed(model, tmp_path, layers):
    folder = made.gemma_scope_2(tmp_path / "set", layers)
    files = sorted(folder.glob("*/config.json"))
    good = [file.read_text() for file in files]
    module = "model.layers.1.post_feedforward_layernorm.output"
    for words, changes in {
        "hf_hook_point_in 'model.layers.1.input_layernorm.output'": {
            "hf_hook_point_in": "model.layers.1.input_layernorm.output"
        },
        "hf_hook_point_out .* not of layer 1": {"hf_hook_point_out": module.replace("1", "2")},
        "hf_hook_point_in None": {"hf_hook_point_in": None},
        "architecture 'gated'": {"architecture": "gated"},
        "writes hook_mlp_out in layer 0, but .* mlp.hook_out in layer 1": {
            "hf_hook_point_out": "model.layers.1.mlp.output"
        },
    }.items():
        rewrite(files[1], **changes)
        refused(words, folder, model)
        files[1].write_text(good[1])
    for file in files:
        rewrite(file, type="sae", hf_hook_point_in=module, hf_hook_point_out=module)
    refused(f"an SAE of {module}, not a transcoder", folder, model)
    for file in files:
        rewrite(file, type="crosscoder")
    refused("a crosscoder", folder, model)
    files[0].write_text("[1]")
    refused("config.json is not a table", folder, model)
    files[0].unlink()
    refused("has no config.json", folder, model)
    files[0].write_text("{")
    refused("config.json cannot be read", folder, model)


def test_gemma_scope_2_with_other_tensors_or_several_choices(model, tmp_path, layers):
    folder = made.gemma_scope_2(tmp_path / "set", layers)
    made.gemma_scope_2(folder, layers, "big")
    refused("2 choices for layer 0: layer_0_width_16k_l0_big and layer_0_width_16k_l0_small", folder, model)
    folder = made.gemma_scope_2(tmp_path / "other", layers)
    file = folder / "layer_1_width_16k_l0_small" / "params.safetensors"
    good = file.read_bytes()
    for words, changes in {
        "no tensor w_dec": {"w_dec": None},
        "no tensor threshold": {"threshold": None},
        "w_dec in .* has the shape \\(40, 3, 24\\)": {"w_dec": torch.zeros(40, 3, 24)},
        "affine_skip_connection in .* shape \\(24, 7\\)": {"affine_skip_connection": torch.zeros(7, 24)},
        "width 7": {"w_enc": torch.zeros(7, 40)},
    }.items():
        rewrite(file, **changes)
        refused(words, folder, model)
        file.write_bytes(good)


def test_cross_layer_files_of_another_number_of_layers(model, tmp_path):
    _, layers = made.cross_layer(tmp_path / "plain")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "config.json").write_text(made.gemma_scope_2_config(0, type="clt"))
    for i, tensors in enumerate(layers):
        save_file(tensors, folder / f"params_layer_{i}.safetensors")
    rewrite(folder / "params_layer_1.safetensors", w_dec=layers[1]["w_dec"][:, 1:].contiguous())
    refused("w_dec in .* writes to 2 layers, the model .* 3", folder, model)
    (folder / "params_layer_2.safetensors").unlink()
    refused("has 2 layers, the model .* 3", folder, model)


def test_a_list_of_files_that_cannot_be_followed(model, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder, _ = made.plain(tmp_path / "set", "mlp.hook_in", "mlp.hook_out")
    table = yaml.safe_load((folder / "config.yaml").read_text())
    good = [f"layer_{i}.safetensors" for i in range(made.LAYERS)]
    for words, listed in {
        "lists 2 transcoders, the model .* 3 layers": good[:2],
        "not a list of files": [*good[:2], 3],
        "lacks absent.safetensors": [*good[:2], "absent.safetensors"],
        "lists '../layer_0.safetensors', which is not in its folder": [*good[:2], "../layer_0.safetensors"],
        "lists '/layer_0.safetensors', which is not in its folder": [*good[:2], "/layer_0.safetensors"],
        "'hf://nobody', which is no file on the hub": [*good[:2], "hf://nobody"],
        "b.npz of the hub repository nobody/none at v1 cannot be fetched": [
            *good[:2],
            "hf://nobody/none/a/b.npz?revision=v1",
        ],
    }.items():
        (folder / "config.yaml").write_text(yaml.safe_dump(table | {"transcoders": listed}))
        refused(words, folder, model)
    for words, changes in {
        "activation 'topk', which needs a top_k": {"activation": "topk"},
        "activation 'gated', which is not known": {"activation": "gated"},
    }.items():
        (folder / "config.yaml").write_text(yaml.safe_dump(table | changes))
        refused(words, folder, model)


def test_a_saelens_sae_is_refused_with_its_hook(model, tmp_path, layers):
    folder = made.saelens(tmp_path / "set", layers, "hook_resid_post", "hook_resid_post", architecture="jumprelu")
    refused("an SAE of blocks.0.hook_resid_post, not a transcoder", folder, model)
    for file in folder.glob("*/cfg.json"):
        rewrite(file, metadata={"hook_name": "blocks.1.hook_mlp_out"}, architecture="standard")
    refused("an SAE of blocks.1.hook_mlp_out, not a transcoder", folder, model)


def test_saelens_options_that_change_what_a_feature_is(model, tmp_path, layers):
    folder = made.saelens(tmp_path / "set", layers, "ln2.hook_normalized", "hook_mlp_out")
    file = folder / "blocks.1.mlp" / "cfg.json"
    good = file.read_text()
    hooks = json.loads(good)["metadata"]
    for words, changes in {
        "normalize_activations 'layer_norm'": {"normalize_activations": "layer_norm"},
        "normalize_activations 'expected_average_only_in'": {"normalize_activations": "expected_average_only_in"},
        "apply_b_dec_to_input True": {"apply_b_dec_to_input": True},
        "rescale_acts_by_decoder_norm True": {"rescale_acts_by_decoder_norm": True},
        "hook_head_index 3": {"metadata": hooks | {"hook_head_index": 3}},
        "architecture 'gated_transcoder'": {"architecture": "gated_transcoder"},
        "activation_fn 'tanh-relu'": {"activation_fn": "tanh-relu"},
        "its k is None": {"activation_fn": "topk"},
        "keeps the 41 largest of 40": {"activation_fn": "topk", "k": 41},
        "hook_name_out None": {"metadata": hooks | {"hook_name_out": None}},
        "hook_name 'blocks.1.hook_resid_pre'": {"metadata": hooks | {"hook_name": "blocks.1.hook_resid_pre"}},
        "hook_name 'blocks.1.hook_mlp_in'": {"metadata": hooks | {"hook_name": "blocks.1.hook_mlp_in"}},
        "reads layer 1 and writes layer 2": {"metadata": hooks | {"hook_name_out": "blocks.2.hook_mlp_out"}},
        "mlp.hook_in and hook_mlp_out in layer 1": {"metadata": hooks | {"hook_name": "blocks.1.mlp.hook_in"}},
    }.items():
        rewrite(file, **changes)
        refused(words, folder, model)
        file.write_text(good)


def test_saelens_weights_that_do_not_fit(model, tmp_path, layers):
    folder = made.saelens(tmp_path / "set", layers, "ln2.hook_normalized", "hook_mlp_out")
    file = folder / "blocks.1.mlp" / "sae_weights.safetensors"
    good = file.read_bytes()
    for words, changes in {
        "no tensor threshold": {"threshold": None},
        "no tensor W_enc": {"W_enc": None},
        "no tensor b_enc": {"b_enc": None},
        "width 7, the model .* 24": {"W_enc": torch.zeros(7, 40)},
        "W_dec in .* shape \\(40, 25\\)": {"W_dec": torch.zeros(40, 25)},
    }.items():
        rewrite(file, **changes)
        refused(words, folder, model)
        file.write_bytes(good)
    for place in folder.glob("blocks.2.mlp/*"):
        place.unlink()
    refused("has 2 layers, the model .* 3", folder, model)
