"""The reference's graphs, and tiny random models of every family with random transcoders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from ingest.models import load_model
from ingest.transcoders import load_transcoders

ORACLE = Path(__file__).resolve().parent.parent / "data" / "oracle"
WIDTH, LAYERS, FEATURES, VOCABULARY = 24, 3, 40, 50


@pytest.fixture(scope="session")
def oracle() -> Path:
    return ORACLE


@pytest.fixture(scope="session")
def oracle_model():
    return load_model(ORACLE / "model", device="cpu")


@pytest.fixture(scope="session")
def oracle_set(oracle_model):
    loaded = {}

    def load(name: str):
        if name not in loaded:
            loaded[name] = load_transcoders(ORACLE / name, oracle_model)
        return loaded[name]

    return load


def reference(name: str) -> dict[str, np.ndarray]:
    """Arrays of a reference graph, e.g. `plt_relu/short`."""
    arrays = dict(np.load(ORACLE / f"{name}.npz"))
    size = len(arrays["adjacency_matrix"])
    arrays["prune_edge_mask"] = np.unpackbits(arrays["prune_edge_mask"], axis=1, count=size).astype(bool)
    return arrays


def tiny_config(family: str):
    """transformers' config of a tiny model with everything the family is known for."""
    from transformers import AutoConfig

    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 10,
        "max_position_embeddings": 16,
        "tie_word_embeddings": False,
    }
    windows = {"sliding_window": 3, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    gemma = sizes | windows | {"query_pre_attn_scalar": 20, "tie_word_embeddings": True, "attention_bias": True}
    classic = {name: sizes[name] for name in ("vocab_size", "max_position_embeddings")}
    of_family = {
        "llama": sizes | {"attention_bias": True},
        "mistral": sizes | {"sliding_window": 3},
        "gemma2": gemma | {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 3.0},
        "gemma3_text": gemma
        | {
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
                "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0},
            }
        },
        "gpt2": classic | {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": 16},
        "gpt_neox": sizes | {"use_parallel_residual": True, "tie_word_embeddings": False},
    }
    if family == "gemma3":
        vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        text = tiny_config("gemma3_text").to_dict()
        return AutoConfig.for_model("gemma3", text_config=text, vision_config=vision)
    return AutoConfig.for_model(family, **of_family.get(family, sizes))


def write_model(folder: Path, family: str = "llama", seed: int = 0) -> Path:
    """A random model of the family with the reference's tokenizer; every bias and norm weight away from neutral."""
    import shutil

    from transformers import AutoModelForCausalLM

    config = tiny_config(family)
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            gain = "weight" in name and any(part in name for part in ("norm", "ln_"))
            neutral = 0 if "gemma" in family else 1  # Gemma's norms multiply by 1 + w
            weight.copy_(neutral + 0.3 * noise if gain else 0.25 * noise)
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(ORACLE / "model" / file, folder / file)
    return folder


def write_set(
    folder: Path,
    *,
    hook: str = "mlp.hook_in",
    skip: bool = False,
    jump: bool = False,
    layers: int = LAYERS,
    width: int = WIDTH,
    seed: int = 1,
    **config: object,
) -> Path:
    """A random per-layer set in circuit-tracer's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, scale: float) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=generator)

    for layer in range(layers):
        tensors = {
            "W_enc": random(FEATURES, width, scale=0.3),
            "b_enc": random(FEATURES, scale=0.3) - 1,
            "W_dec": random(FEATURES, width, scale=0.2),
            "b_dec": random(width, scale=0.2),
        }
        if skip:
            tensors["W_skip"] = random(width, width, scale=0.1)
        if jump:
            tensors["activation_function.threshold"] = random(FEATURES, scale=0.1).abs() + 0.2
        save_file(tensors, folder / f"layer_{layer}.safetensors")
    table = {
        "model_name": "tiny",
        "scan": "tiny/random",
        "model_kind": "transcoder_set",
        "feature_input_hook": hook,
        "feature_output_hook": "mlp.hook_out",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(table | config))
    return folder


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny(tiny_model_folder):
    """A tiny random Llama with attention biases, in float64."""
    return load_model(tiny_model_folder, device="cpu", dtype="float64")


@pytest.fixture(scope="session")
def tiny_set(tiny, tmp_path_factory):
    return load_transcoders(write_set(tmp_path_factory.mktemp("tiny-set"), skip=True), tiny)
