"""Tracing: wall time, CPU-seconds and peak memory per prompt, alone or beside circuit-tracer.

    python -m benchmarks.trace [--model M --transcoders T] [--prompt P ...] [--repeat 3]
    python -m benchmarks.trace --random smollm2-135m [--tokens 11,32,64,128] [--repeat 3]
    ... [--reference PYTHON [--reference-batch 64] [--limit-s 3600] [--memory-gib N]] [--flops]
    python -m benchmarks.trace --scaling [--tiny]
    python -m benchmarks.trace --dtypes

Without arguments the shipped model and its sample prompts. `--random smollm2-135m`: a random Llama of SmolLM2-135M's sizes with
random ReLU transcoders (2048 features per layer, their biases set so that about 16 are active per layer and token), to
compare with other tools at a real size without a download. Loading is not counted; peak memory is the largest resident set of
the whole process. `--reference PYTHON`: an interpreter with circuit-tracer 0.5.0; both engines trace the same files, each in a process
of its own, one after the other, memory above what model and set take, and ours is compared edge by edge. `--flops`: our multiply-adds
as a multiple of the least that carrying every target down the exact linear map needs. `--scaling`: sizes doubled one at a time. `--dtypes`: bfloat16 and
float16 against float32. Prints tables and stores benchmarks/results/trace.json (trace-reference.json, trace-flops.json,
trace-scaling.json, trace-dtypes.json).
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import trace_dtypes, trace_flops, trace_reference, trace_scaling
from ingest.models import Model, load_model
from ingest.models.llama import LlamaModel
from ingest.trace import attribute, prune
from ingest.trace.attribute import prepare
from ingest.transcoders import TranscoderSet, load_transcoders

RESULTS = Path(__file__).parent / "results"
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
    return trace_scaling.random_set(model, ids, features, active)


def random_ids(tokens: int) -> list[int]:
    """The first id is one that the reference takes for special."""
    generator = torch.Generator().manual_seed(2)
    return [1, *torch.randint(4, SMOLLM2["vocab_size"], (tokens - 1,), generator=generator).tolist()]


def measure(model: Model, transcoders: TranscoderSet, ids: list[int], repeat: int) -> dict[str, float]:
    walls, cpus, prunes = [], [], []
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        graph = attribute(model, transcoders, ids, warn=lambda text: None)
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


def table(rows: dict[str, dict[str, float]], setting: dict[str, Any]) -> Table:
    made = Table(title=f"Tracing on {setting['device']}, {setting['threads']} threads, median of {setting['repeat']}")
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
        made.add_column(head, justify="left" if head == "prompt" else "right")
    for text, row in rows.items():
        cells = [f"{row[key]:,}" if key in ("nodes", "edges") else f"{row[key]:,.2f}" for key in list(heads)[1:]]
        made.add_row(text, *cells)
    return made


def flops_table(rows: dict[str, trace_flops.Count]) -> Table:
    made = Table(title="Multiply-adds, and the least for carrying every target down")
    for head in ("prompt", "ours", "least", "multiple"):
        made.add_column(head, justify="left" if head == "prompt" else "right")
    for text, row in rows.items():
        made.add_row(text, f"{row.spent:.3e}", f"{row.least:.3e}", f"{row.multiple:.2f}")
    return made


def keep(name: str, found: dict[str, Any], place: Path = RESULTS) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def beside(
    asked: argparse.Namespace, model: Model, pairs: dict[str, tuple[TranscoderSet, list[int]]], setting: dict
) -> Table:
    """Both engines on every prompt, from files."""
    options = {
        "repeat": asked.repeat,
        "batch": asked.reference_batch,
        "limit_s": asked.limit_s,
        "memory_gib": asked.memory_gib or psutil.virtual_memory().available * 0.85 / 2**30,
        "flops": asked.flops,
    }
    rows = {}
    for text, (parts, ids) in pairs.items():
        nodes = graph_size(model, parts, ids)
        with tempfile.TemporaryDirectory() as place:
            if asked.random:
                folders = trace_reference.write_pair(model, parts, Path(place))
            else:
                folders = default_folders(asked)
            rows[text] = trace_reference.compare(asked.reference, *folders, ids, nodes, options)
        keep(
            "trace-reference", {"setting": setting | options, "prompts": rows}
        )  # a long run that is stopped keeps what it has
    return trace_reference.table(rows, setting["threads"])


def graph_size(model: Model, parts: TranscoderSet, ids: list[int]) -> int:
    return prepare(model, parts, ids, None, None, 10, 0.95).order.size


def default_folders(asked: argparse.Namespace) -> tuple[Path, Path]:
    from ingest.organism import model_path, transcoders_path

    return Path(asked.model or model_path()), Path(asked.transcoders or transcoders_path())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--transcoders")
    parser.add_argument("--prompt", action="append")
    parser.add_argument("--random", choices=["smollm2-135m"])
    parser.add_argument("--tokens", default="11", help="lengths of random prompts, separated by commas")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--reference", help="an interpreter with circuit-tracer")
    parser.add_argument("--reference-batch", type=int, default=64)
    parser.add_argument("--limit-s", type=float, default=3600, help="of one engine on one prompt")
    parser.add_argument("--memory-gib", type=float, help="of one engine; 85%% of what is free")
    parser.add_argument("--flops", action="store_true")
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--dtypes", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="with --scaling: a case of seconds, to try the script")
    asked = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 170)
    setting = {
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "repeat": asked.repeat,
    }
    if asked.dtypes:
        found = trace_dtypes.measure()
        console.print(trace_dtypes.table(found))
        keep("trace-dtypes", {"setting": setting, "sets": found})
        return 0
    if asked.scaling:
        base = trace_scaling.TINY if asked.tiny else trace_scaling.Size()
        found = trace_scaling.measure(base, repeat=asked.repeat)
        console.print(trace_scaling.table(found))
        if not asked.tiny:
            keep("trace-scaling", {"setting": setting} | found)
        return 0

    pairs: dict[str, tuple[TranscoderSet, list[int]]] = {}
    if asked.random:
        model = random_model()
        for tokens in map(int, asked.tokens.split(",")):
            ids = random_ids(tokens)
            pairs[f"random, {tokens} tokens"] = random_transcoders(model, ids), ids
    else:
        from ingest.organism import SAMPLE_PROMPTS

        model_folder, set_folder = default_folders(asked)
        model = load_model(model_folder)
        transcoders = load_transcoders(set_folder, model)
        texts = asked.prompt or [sample.prompt for sample in SAMPLE_PROMPTS]
        pairs = {text: (transcoders, model.tokenizer.encode(text)) for text in texts}
    setting["device"] = str(model.device)
    if asked.reference:
        console.print(beside(asked, model, pairs, setting))
    if asked.flops:
        counts = {text: trace_flops.count(model, *pair) for text, pair in pairs.items()}
        console.print(flops_table(counts))
        rows = {text: vars(row) | {"multiple": row.multiple} for text, row in counts.items()}
        keep("trace-flops", {"setting": setting, "prompts": rows})
    if not asked.reference and not asked.flops:
        found = {text: measure(model, *pair, asked.repeat) for text, pair in pairs.items()}
        console.print(table(found, setting))
        keep("trace", {"setting": setting, "prompts": found})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
