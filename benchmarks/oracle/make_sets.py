"""Tiny seeded models and transcoder sets to hand to the reference. Runs in this project's environment.

    python -m benchmarks.oracle.make_sets FOLDER

Writes FOLDER/<family>/model in the Hugging Face layout and FOLDER/<family>/<set> in circuit-tracer's. Weights are random and far
from neutral; decoders, their biases and skips are ridge fits to the MLPs on random tokens, so that errors are neither all nor
nothing. Everything is stored as float16 (small, and exact in float32).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

from benchmarks.oracle.families import CONTEXT, FAMILIES, SETS, VOCABULARY, WIDTH, Parts
from ingest.models import Model, load_model

ACTIVE, RIDGE, SEQUENCES = 0.08, 1.0, 64


def write_tokenizer(folder: Path, size: int = VOCABULARY) -> None:
    """Words w0, w1, ... on white space: pad w0, bos w1, eos w2, unknown w3; it adds no special token itself."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel({f"w{i}": i for i in range(size)}, unk_token="w3"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    special = {"pad_token": "w0", "bos_token": "w1", "eos_token": "w2", "unk_token": "w3"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    # the class is named otherwise by other versions of transformers
    table = {**special, "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(table, indent=1) + "\n")


def write_model(folder: Path, name: str, **changes: object) -> Path:
    """changes: entries of config.json in place of the family's."""
    from transformers import AutoConfig, AutoModelForCausalLM

    family = FAMILIES[name]
    folder.mkdir(parents=True, exist_ok=True)
    config = family.config | changes | {"architectures": [family.architecture]}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    write_tokenizer(folder)
    network = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    generator = torch.Generator().manual_seed(sorted(FAMILIES).index(name))
    weights = {}
    for key, weight in sorted(network.named_parameters()):  # tied ones are named once
        noise = torch.randn(weight.shape, generator=generator)
        gain = key.endswith("weight") and any(part in key for part in ("norm", "ln_"))
        neutral = 0 if "gemma" in name else 1  # Gemma's norms multiply by 1 + w
        if name == "gpt_neox":
            key = key.replace("lm_head", "embed_out")  # its name on disk, which transformers 5 has another for
        weights[key] = (neutral + 0.3 * noise if gain else 0.2 * noise).half()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_set(folder: Path, name: str, parts: Parts, model: Model) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(1000 + sorted(SETS).index(name))
    inputs, outputs = _samples(model, parts, generator)
    layers, features = model.n_layers, parts.features
    encoders, biases, thresholds, activations, skips = [], [], [], [], []
    for x, y in zip(inputs, outputs, strict=True):
        encoder = torch.randn(features, WIDTH, generator=generator).double() / x.std() / WIDTH**0.5
        threshold = 0.2 * torch.rand(features, generator=generator).double() + 0.1 if parts.jump else None
        pre = x @ encoder.T
        level = 0 if threshold is None else threshold
        bias = level - pre.quantile(1 - ACTIVE, dim=0)
        pre = pre + bias
        encoders.append(encoder)
        biases.append(bias)
        thresholds.append(threshold)
        activations.append(pre * (pre > level))
        skips.append(_ridge(x, y - y.mean(0)).T if parts.skip else None)
    decoders: list[list[torch.Tensor]] = [[] for _ in range(layers)]  # of a cross-layer set, by layer that reads
    for i in range(layers):
        tensors = {"W_enc": encoders[i], "b_enc": biases[i]}
        if thresholds[i] is not None:
            tensors["threshold" if parts.cross_layer else "activation_function.threshold"] = thresholds[i]
        rest = outputs[i] if skips[i] is None else outputs[i] - inputs[i] @ skips[i].T
        reads = range(i + 1) if parts.cross_layer else [i]
        known = torch.cat([activations[k] for k in reads], dim=1)
        fit = _ridge(torch.cat([known, torch.ones(len(known), 1).double()], dim=1), rest)
        tensors["b_dec"] = fit[-1]
        if skips[i] is not None:
            tensors["W_skip"] = skips[i]
        if parts.cross_layer:
            for k in reads:
                decoders[k].append(fit[k * features : (k + 1) * features])
            _save({f"{key}_{i}": value for key, value in tensors.items()}, folder / f"W_enc_{i}.safetensors")
        else:
            _save(tensors | {"W_dec": fit[:-1]}, folder / f"layer_{i}.safetensors")
    if parts.cross_layer:
        for i, written in enumerate(decoders):
            _save({f"W_dec_{i}": torch.stack(written, dim=1)}, folder / f"W_dec_{i}.safetensors")
    table = {
        "model_name": name.split("/")[0],
        "scan": f"oracle/{name}",
        "model_kind": "cross_layer_transcoder" if parts.cross_layer else "transcoder_set",
        "feature_input_hook": parts.reads,
        "feature_output_hook": parts.writes,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(table, sort_keys=False))


def _samples(model: Model, parts: Parts, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """(L, tokens, d) at both hooks, float64, first positions left out."""
    inputs, outputs = [], []
    for _ in range(SEQUENCES):
        ids = [1, *torch.randint(4, VOCABULARY, (CONTEXT - 1,), generator=generator).tolist()]
        frozen = model.freeze(ids, parts.reads, parts.writes)
        inputs.append(frozen.inputs[:, 1:])
        outputs.append(frozen.outputs[:, 1:])
    return torch.cat(inputs, dim=1).double().clone(), torch.cat(outputs, dim=1).double().clone()


def _ridge(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(n, a), (n, b) -> (a, b)."""
    return torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1]).double(), x.T @ y)


def _save(tensors: dict[str, torch.Tensor], file: Path) -> None:
    save_file({key: value.half().contiguous() for key, value in tensors.items()}, file)


def main() -> int:
    root = Path(sys.argv[1])
    for family in FAMILIES:
        write_model(root / family / "model", family)
    for name, parts in SETS.items():
        family = name.split("/")[0]
        write_set(root / name, name, parts, load_model(root / family / "model", device="cpu"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
