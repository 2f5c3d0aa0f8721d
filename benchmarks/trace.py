"""Tracing: wall time, CPU-seconds and peak memory per prompt.

    python -m benchmarks.trace [--model M --transcoders T] [--prompt P ...] [--repeat 3]
    python -m benchmarks.trace --random smollm2-135m [--tokens 11] [--repeat 3]

Without arguments the shipped model and its sample prompts. `--random smollm2-135m`: a random Llama of SmolLM2-135M's sizes with
random ReLU transcoders (2048 features per layer, their biases set so that about 16 are active per layer and token), to
compare with other tools at a real size without a download. Loading is not counted; peak memory is the largest resident set of
the whole process. Prints a table and stores benchmarks/results/trace.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from ingest.models import Model, load_model
from ingest.models.llama import LlamaModel
from ingest.trace import attribute, prune
from ingest.transcoders import Transcoder, TranscoderSet, load_transcoders

RESULTS = Path(__file__).parent / "results" / "trace.json"
SMOLLM2 = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
}


def random_model() -> Model:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**SMOLLM2, attn_implementation="eager")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = LlamaForCausalLM(config).eval().requires_grad_(False).to(device)
    return LlamaModel("random", "unknown", "unknown", True, network, None, device, torch.float32)


def random_transcoders(model: Model, ids: list[int], features: int = 2048, active: int = 16) -> TranscoderSet:
    """ReLU transcoders whose encoder biases let `active` features per token through on this prompt, on average."""
    inputs = model.feature_inputs(torch.tensor([ids]), "mlp.hook_in")[:, 0]
    generator = torch.Generator().manual_seed(1)
    layers = []
    for x in inputs:
        encoder = torch.randn(features, model.width, generator=generator).to(x) / model.width**0.5
        decoder = torch.randn(features, model.width, generator=generator).to(x) / model.width**0.5
        cut = torch.quantile((x @ encoder.T)[1:].flatten(), 1 - active / features)
        layers.append(Transcoder(encoder, (-cut).expand(features).clone(), decoder, torch.zeros_like(decoder[0])))
    return TranscoderSet("random", "unknown", "unknown", "random", "mlp.hook_in", "hook_mlp_out", layers)


def measure(model: Model, transcoders: TranscoderSet, ids: list[int], repeat: int) -> dict[str, float]:
    walls, cpus, prunes = [], [], []
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        graph = attribute(model, transcoders, ids)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
        wall = time.perf_counter()
        prune(graph)
        prunes.append(time.perf_counter() - wall)
    return {
        "tokens": len(ids),
        "features": graph.order.n_features,
        "nodes": graph.order.size,
        "edges": int(graph.matrix.nnz),
        "attribute_s": statistics.median(walls),
        "attribute_s_spread": max(walls) - min(walls),
        "attribute_cpu_s": statistics.median(cpus),
        "prune_s": statistics.median(prunes),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        / (2**20 if sys.platform == "darwin" else 2**10),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--transcoders")
    parser.add_argument("--prompt", action="append")
    parser.add_argument("--random", choices=["smollm2-135m"])
    parser.add_argument("--tokens", type=int, default=11)
    parser.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()

    if asked.random:
        model = random_model()
        generator = torch.Generator().manual_seed(2)
        ids = torch.randint(SMOLLM2["vocab_size"], (asked.tokens,), generator=generator).tolist()
        transcoders = random_transcoders(model, ids)
        prompts = {f"random, {asked.tokens} tokens": ids}
    else:
        from ingest.organism import SAMPLE_PROMPTS, model_path, transcoders_path

        model = load_model(asked.model or model_path())
        transcoders = load_transcoders(asked.transcoders or transcoders_path(), model)
        texts = asked.prompt or [sample.prompt for sample in SAMPLE_PROMPTS]
        prompts = {text: model.tokenizer.encode(text) for text in texts}

    rows = {text: measure(model, transcoders, ids, asked.repeat) for text, ids in prompts.items()}
    setting = {
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "repeat": asked.repeat,
    }
    table = Table(title=f"Tracing on {model.device}, {setting['threads']} threads, median of {asked.repeat}")
    heads = {
        "prompt": "prompt",
        "nodes": "nodes",
        "edges": "edges",
        "attribute_s": "wall s",
        "attribute_s_spread": "spread",
        "attribute_cpu_s": "CPU s",
        "prune_s": "prune s",
        "peak_rss_mib": "peak MiB",
    }
    for head in heads.values():
        table.add_column(head, justify="left" if head == "prompt" else "right")
    for text, row in rows.items():
        cells = [f"{row[key]:,}" if key in ("nodes", "edges") else f"{row[key]:,.2f}" for key in list(heads)[1:]]
        table.add_row(text, *cells)
    Console().print(table)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"setting": setting, "prompts": rows}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
