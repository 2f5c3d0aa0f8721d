"""Everything that cannot be traced is refused in one sentence before any long work."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from atlas.errors import AtlasError, InputRejected, ModelRejected, UsageError
from ingest.models import load_model
from ingest.trace import attribute
from ingest.trace.prompt import prompt_ids
from ingest.trace.targets import TargetSpec, parse_targets
from ingest.transcoders import load_transcoders
from tests.ingest.trace.conftest import write_set


def refusal(kind: type[AtlasError], words: str, call, *arguments, **named) -> AtlasError:
    """The error of a call: of this kind, matching `words`, one sentence and a hint of one or two."""
    with pytest.raises(kind, match=words) as caught:
        call(*arguments, **named)
    assert "\n" not in str(caught.value)
    assert caught.value.message.endswith(".")
    assert caught.value.hint
    return caught.value


@pytest.fixture
def model_copy(tiny_model_folder, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "copy"))


def change_config(folder: Path, **changes) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


def test_a_missing_model_folder(tmp_path):
    refusal(ModelRejected, "no model folder", load_model, tmp_path / "nowhere")
    refusal(ModelRejected, "no model folder", load_model, "./nowhere")


def test_a_name_that_is_neither_a_folder_nor_on_the_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refusal(ModelRejected, "neither a folder nor a hub repository", load_model, "nobody/no-such-model")


def test_a_folder_that_holds_no_model(tmp_path, model_copy):
    refusal(ModelRejected, "no config.json", load_model, tmp_path)
    (tmp_path / "config.json").write_text("{")
    refusal(ModelRejected, "cannot be read", load_model, tmp_path)
    (model_copy / "model.safetensors").unlink()
    refusal(ModelRejected, "holds no \\*.safetensors", load_model, model_copy)
    refusal(ModelRejected, "is a file", load_model, tmp_path / "config.json")


def test_an_unknown_architecture_is_answered_with_the_known_ones(model_copy):
    change_config(model_copy, model_type="mamba")
    error = refusal(ModelRejected, "architecture 'mamba'", load_model, model_copy)
    assert "llama" in error.hint


def test_damaged_weights(model_copy):
    file = model_copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    refusal(ModelRejected, "cannot be loaded", load_model, model_copy)


def test_weights_that_lack_a_layer_of_the_config(model_copy):
    refusal(ModelRejected, "do not fit", load_model, change_config(model_copy, num_hidden_layers=4))


def test_a_folder_without_a_tokenizer(model_copy):
    for file in model_copy.glob("*tok*"):
        file.unlink()
    refusal(ModelRejected, "cannot be loaded", load_model, model_copy)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(model_copy, value):
    weights = load_file(model_copy / "model.safetensors")
    weights["model.norm.weight"][3] = value
    save_file(weights, model_copy / "model.safetensors", metadata={"format": "pt"})
    refusal(ModelRejected, "model.norm.weight .* NaN or infinity", load_model, model_copy)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_device_that_is_not_here(tiny_model_folder):
    error = refusal(UsageError, "device 'cuda' is not here", load_model, tiny_model_folder, device="cuda")
    assert "cpu" in error.hint


def test_a_device_or_dtype_that_does_not_exist(tiny_model_folder):
    refusal(UsageError, "device 'toaster'", load_model, tiny_model_folder, device="toaster")
    refusal(UsageError, "dtype 'float31'", load_model, tiny_model_folder, dtype="float31")


def test_a_set_for_another_width_or_number_of_layers(tiny, tmp_path):
    refusal(ModelRejected, "width 32, the model .* 24", load_transcoders, write_set(tmp_path / "w", width=32), tiny)
    refusal(ModelRejected, "2 layers, the model .* 3", load_transcoders, write_set(tmp_path / "f", layers=2), tiny)
    refusal(ModelRejected, "4 layers, the model .* 3", load_transcoders, write_set(tmp_path / "m", layers=4), tiny)


def test_a_set_without_one_of_its_files(tiny, tmp_path):
    folder = write_set(tmp_path / "set")
    (folder / "layer_1.safetensors").unlink()
    refusal(ModelRejected, "lacks layer_1.safetensors", load_transcoders, folder, tiny)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    refusal(ModelRejected, "holds no layer_0.safetensors", load_transcoders, folder, tiny)
    (folder / "config.yaml").unlink()
    refusal(ModelRejected, "no known layout", load_transcoders, folder, tiny)
    refusal(ModelRejected, "no transcoder set folder", load_transcoders, tmp_path / "nowhere", tiny)


def test_a_set_with_a_config_that_cannot_be_followed(tiny, tmp_path):
    for words, changes in {
        "holds no W_enc_0": {"model_kind": "cross_layer_transcoder"},
        "top_k 'many'": {"top_k": "many"},
        "kind 'sae'": {"model_kind": "sae"},
        "feature_input_hook 'hook_q'": {"feature_input_hook": "hook_q"},
        "feature_output_hook None": {"feature_output_hook": None},
        "lists 1 transcoders, the model .* 3 layers": {"transcoders": ["layer_0.safetensors"]},
    }.items():
        refusal(ModelRejected, words, load_transcoders, write_set(tmp_path / "set", **changes), tiny)
    (tmp_path / "set" / "config.yaml").write_text("- a list")
    refusal(ModelRejected, "not a table", load_transcoders, tmp_path / "set", tiny)
    (tmp_path / "set" / "config.yaml").write_text("a: [")
    refusal(ModelRejected, "cannot be read", load_transcoders, tmp_path / "set", tiny)


def test_a_set_with_bad_tensors(tiny, tmp_path):
    file = write_set(tmp_path / "set") / "layer_2.safetensors"
    good = load_file(file)
    for words, changes in {
        "W_dec .* NaN or infinity": {"W_dec": good["W_dec"] * float("nan")},
        "b_enc .* has the shape \\(7,\\)": {"b_enc": torch.zeros(7)},
        "1 dimensions, not 2": {"W_enc": torch.zeros(3)},
    }.items():
        save_file(good | changes, file)
        refusal(ModelRejected, words, load_transcoders, file.parent, tiny)
    save_file({name: tensor for name, tensor in good.items() if name != "b_dec"}, file)
    refusal(ModelRejected, "no tensor b_dec", load_transcoders, file.parent, tiny)
    file.write_bytes(b"not safetensors")
    refusal(ModelRejected, "not a readable safetensors file", load_transcoders, file.parent, tiny)


def test_a_set_loaded_for_another_model(tiny, tiny_set, oracle_model, tiny_model_folder):
    refusal(ModelRejected, "does not fit", attribute, oracle_model, tiny_set, [1, 2])
    coarse = load_model(tiny_model_folder, device="cpu", dtype="float32")
    refusal(ModelRejected, "another device or dtype", attribute, coarse, tiny_set, [1, 2])


def test_prompts_that_cannot_be_traced(tiny):
    refusal(InputRejected, "empty", prompt_ids, tiny, "", None)
    refusal(InputRejected, "empty", prompt_ids, tiny, "  \n", None)
    refusal(InputRejected, "empty", prompt_ids, tiny, None, [])
    refusal(UsageError, "either a prompt or token ids", prompt_ids, tiny, None, None)
    refusal(UsageError, "either a prompt or token ids", prompt_ids, tiny, "w5", [5])
    refusal(UsageError, "no chat template", prompt_ids, tiny, "w5", None, chat=True)
    refusal(InputRejected, "17 tokens, the model's context 16", prompt_ids, tiny, None, [5] * 17)
    error = refusal(InputRejected, "token id 50 at position 1", prompt_ids, tiny, None, [5, 50])
    assert error.place == "token_ids[1]"
    refusal(InputRejected, "token id -1 at position 0", prompt_ids, tiny, None, [-1])
    assert len(prompt_ids(tiny, None, [5] * 16)) == 16


def test_targets_that_are_not_one_token(tiny):
    error = refusal(InputRejected, "2 tokens", parse_targets, tiny, ["w5 w6"])
    assert re.search("'w5' \\+ ' ?w6'", error.message)
    refusal(InputRejected, "not in the model's vocabulary", parse_targets, tiny, ["Austin"])
    refusal(InputRejected, "0 tokens", parse_targets, tiny, [""])
    refusal(InputRejected, "No target was named", parse_targets, tiny, [])
    refusal(InputRejected, "target token id 50", parse_targets, tiny, [50])
    assert [spec.tokens for spec in parse_targets(tiny, ["w7", 9, "w7"])] == [(7,), (9,)]


def test_targets_that_make_no_sense(tiny, tiny_set, tmp_path):
    refusal(InputRejected, "not a difference of two", parse_targets, tiny, ["diff:w7"])
    refusal(InputRejected, "not a feature", parse_targets, tiny, ["feature:1/2"])
    refusal(InputRejected, "names layer 9; the model .* layers 0 to 2", parse_targets, tiny, ["feature:9/2/5"])
    refusal(InputRejected, "names two positions", parse_targets, tiny, ["feature:0/2/5@1"])
    refusal(InputRejected, "a token less itself", parse_targets, tiny, ["diff:w7|w7"])
    refusal(InputRejected, "id 9999 is outside the vocabulary", parse_targets, tiny, ["diff:w7|id:9999"])
    beyond = TargetSpec("difference", "", tokens=(5, 9999))
    refusal(InputRejected, "id 9999 is outside the vocabulary", parse_targets, tiny, [beyond])
    far = parse_targets(tiny, ["w7@9"])
    refusal(InputRejected, "position 9; the prompt has 3 tokens", attribute, tiny, tiny_set, [1, 5, 6], targets=far)
    silent = parse_targets(tiny, ["feature:0/0/1"])
    refusal(InputRejected, "does not fire at position 0", attribute, tiny, tiny_set, [1, 5, 6], targets=silent)


@pytest.mark.parametrize(
    ("vector", "match"),
    [
        (np.ones(3), r"float64 of shape \(3,\); the model's width is 24"),
        (np.array(["a"] * 24), "has <U1 of shape"),
        (np.ones(24, complex), "has complex128"),
        (np.full(24, 1e300), "not finite in float32"),
        (np.full(24, np.nan), "not finite"),
        (np.zeros(24), "is zero"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_directions_that_make_no_sense(tiny, tmp_path, vector, match):
    np.save(tmp_path / "one.npy", vector)
    refusal(InputRejected, match, parse_targets, tiny, [f"direction:{tmp_path / 'one.npy'}"])


def test_directions_that_are_no_vector_file(tiny, tmp_path):
    refusal(InputRejected, "There is no file", parse_targets, tiny, [f"direction:{tmp_path / 'no.npy'}"])
    (tmp_path / "text.npy").write_text("1 2 3")
    refusal(InputRejected, "not a readable .npy", parse_targets, tiny, [f"direction:{tmp_path / 'text.npy'}"])


def test_a_token_may_be_named_by_its_number(tiny):
    (token,) = parse_targets(tiny, ["w7"])
    assert parse_targets(tiny, [f"id:{token.tokens[0]}@-1"]) == [token]


def test_weights_of_more_layers_than_the_config_has(model_copy):
    config = json.loads((model_copy / "config.json").read_text())
    (model_copy / "config.json").write_text(json.dumps(config | {"num_hidden_layers": config["num_hidden_layers"] - 1}))
    refusal(ModelRejected, r"layers\.2\..* of a layer that the config leaves out", load_model, model_copy, device="cpu")


def test_a_set_without_features(tiny, tmp_path):
    folder = write_set(tmp_path / "set")
    for file in folder.glob("layer_*.safetensors"):
        tensors = {k: v[:0].contiguous() if k in ("W_enc", "b_enc", "W_dec") else v for k, v in load_file(file).items()}
        save_file(tensors, file)
    refusal(ModelRejected, "layer 0 .* has no features", load_transcoders, folder, tiny)


def test_logits_that_overflow_the_dtype(model_copy, tmp_path):
    weights = load_file(model_copy / "model.safetensors")
    weights["model.norm.weight"] *= 30_000
    save_file(weights, model_copy / "model.safetensors", metadata={"format": "pt"})
    model = load_model(model_copy, device="cpu", dtype="float16")
    transcoders = load_transcoders(write_set(tmp_path / "set"), model)
    refusal(ModelRejected, "not finite .* in float16", attribute, model, transcoders, [1, 5, 6])
