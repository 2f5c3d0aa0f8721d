"""The same random numbers written in every layout, for tiny random models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from ingest.models import load_model
from tests.ingest.trace.conftest import FEATURES, LAYERS, WIDTH, write_model, write_set

__all__ = ["FEATURES", "LAYERS", "WIDTH"]
Tensors = list[dict[str, torch.Tensor]]


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A tiny random Gemma 2, in float32: norms before and after the MLP, so that every hook is another place."""
    return load_model(write_model(tmp_path_factory.mktemp("gemma") / "model", "gemma2"), device="cpu")


def plain(folder: Path, input_hook: str, output_hook: str, **changes: object) -> tuple[Path, Tensors]:
    """A set in circuit-tracer's layout, and its tensors."""
    write_set(folder, hook=input_hook, feature_output_hook=output_hook, **changes)
    return folder, [load_file(folder / f"layer_{i}.safetensors") for i in range(LAYERS)]


def as_numpy(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {
        "W_enc": tensors["W_enc"].T.contiguous().numpy(),
        "W_dec": tensors["W_dec"].numpy(),
        "b_enc": tensors["b_enc"].numpy(),
        "b_dec": tensors["b_dec"].numpy(),
        "threshold": tensors["activation_function.threshold"].numpy(),
    }


def gemma_scope(folder: Path, layers: Tensors, compressed: bool = False) -> Path:
    for i, tensors in enumerate(layers):
        file = folder / f"layer_{i}" / "width_16k" / f"average_l0_{20 + i}" / "params.npz"
        file.parent.mkdir(parents=True)
        (np.savez_compressed if compressed else np.savez)(file, **as_numpy(tensors))
    return folder


def gemma_scope_2_tensors(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    made = {
        "w_enc": tensors["W_enc"].T.contiguous(),
        "w_dec": tensors["W_dec"],
        "b_enc": tensors["b_enc"],
        "b_dec": tensors["b_dec"],
        "threshold": tensors["activation_function.threshold"],
    }
    return made | ({"affine_skip_connection": tensors["W_skip"].T.contiguous()} if "W_skip" in tensors else {})


def gemma_scope_2_config(layer: int, **changes: object) -> str:
    table = {
        "hf_hook_point_in": f"model.layers.{layer}.pre_feedforward_layernorm.output",
        "hf_hook_point_out": f"model.layers.{layer}.post_feedforward_layernorm.output",
        "architecture": "jump_relu",
        "type": "transcoder",
    }
    return json.dumps(table | changes)


def gemma_scope_2(folder: Path, layers: Tensors, l0: str = "small") -> Path:
    for i, tensors in enumerate(layers):
        place = folder / f"layer_{i}_width_16k_l0_{l0}"
        place.mkdir(parents=True)
        save_file(gemma_scope_2_tensors(tensors), place / "params.safetensors")
        (place / "config.json").write_text(gemma_scope_2_config(i))
    return folder


def cross_layer(folder: Path, seed: int = 3) -> tuple[Path, Tensors]:
    """A cross-layer set in circuit-tracer's layout, and in Gemma Scope 2's tensors (decoders to layers below are noise)."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, scale: float) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=generator)

    folder.mkdir(parents=True)
    layers: Tensors = []
    for i in range(LAYERS):
        made = {
            "w_enc": random(WIDTH, FEATURES, scale=0.3),
            "w_dec": random(FEATURES, LAYERS, WIDTH, scale=0.1),
            "b_enc": random(FEATURES, scale=0.3) - 1,
            "b_dec": random(WIDTH, scale=0.2),
            "threshold": random(FEATURES, scale=0.1).abs() + 0.2,
            "affine_skip_connection": random(WIDTH, WIDTH, scale=0.1),
        }
        encoder = {
            f"W_enc_{i}": made["w_enc"].T.contiguous(),
            f"b_enc_{i}": made["b_enc"],
            f"b_dec_{i}": made["b_dec"],
            f"threshold_{i}": made["threshold"],
            f"W_skip_{i}": made["affine_skip_connection"].T.contiguous(),
        }
        save_file(encoder, folder / f"W_enc_{i}.safetensors")
        save_file({f"W_dec_{i}": made["w_dec"][:, i:].contiguous()}, folder / f"W_dec_{i}.safetensors")
        layers.append(made)
    table = {
        "model_kind": "cross_layer_transcoder",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "hook_mlp_out",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(table))
    return folder, layers


def saelens(
    folder: Path, layers: Tensors, hook: str, hook_out: str, in_metadata: bool = True, **changes: object
) -> Path:
    for i, tensors in enumerate(layers):
        place = folder / f"blocks.{i}.mlp"
        place.mkdir(parents=True)
        made = {name: tensor for name, tensor in tensors.items() if name != "W_enc"}
        made["W_enc"] = tensors["W_enc"].T.contiguous()
        kind = "skip_transcoder" if "W_skip" in made else "transcoder"
        if "activation_function.threshold" in made:
            made["threshold"] = made.pop("activation_function.threshold")
            kind = f"jumprelu_{kind}"
        save_file(made, place / "sae_weights.safetensors")
        hooks = {"hook_name": f"blocks.{i}.{hook}", "hook_name_out": f"blocks.{i}.{hook_out}"}
        table = {"architecture": kind, "normalize_activations": "none", "apply_b_dec_to_input": False}
        table |= {"metadata": hooks} if in_metadata else hooks
        (place / "cfg.json").write_text(json.dumps(table | changes))
    return folder
