"""Layers, width, features, active features and tokens doubled one at a time, on random Llamas: the exponent of each.

An exponent is the slope of log(cost) over log(size): 1 is linear. Seconds of small cases are dominated by what does not grow, so the
multiply-adds of the backward pass are listed beside them.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from rich.table import Table

from benchmarks.trace_flops import spent
from ingest.models import Model
from ingest.models.llama import LlamaModel
from ingest.trace import attribute
from ingest.transcoders import Transcoder, TranscoderSet

COSTS = ("cpu_s", "wall_s", "multiply_adds", "edges")


@dataclass(frozen=True)
class Size:
    layers: int = 8
    width: int = 256
    features: int = 1024  # per layer
    active: int = 8  # of them, per layer and token, on average
    tokens: int = 16


TINY = Size(layers=2, width=32, features=64, active=4, tokens=4)


def build(size: Size) -> tuple[Model, TranscoderSet, list[int]]:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=size.width,
        intermediate_size=size.width * 5 // 2,
        num_hidden_layers=size.layers,
        num_attention_heads=max(1, size.width // 64),
        num_key_value_heads=max(1, size.width // 64),
        vocab_size=1000,
        max_position_embeddings=4096,
        attn_implementation="eager",
    )
    network = LlamaForCausalLM(config).eval().requires_grad_(False)
    model = LlamaModel("random", "unknown", "unknown", True, network, None, torch.device("cpu"), torch.float32)
    generator = torch.Generator().manual_seed(1)
    ids = [1, *torch.randint(3, 1000, (size.tokens - 1,), generator=generator).tolist()]
    return model, random_set(model, ids, size.features, size.active), ids


def random_set(model: Model, ids: list[int], features: int, active: int) -> TranscoderSet:
    """ReLU transcoders whose encoder biases let `active` features per layer and token through on this prompt, on average."""
    inputs = model.feature_inputs(torch.tensor([ids]), "mlp.hook_in")[:, 0]
    generator = torch.Generator().manual_seed(1)
    layers = []
    for x in inputs:
        encoder = torch.randn(features, model.width, generator=generator).to(x) / model.width**0.5
        decoder = torch.randn(features, model.width, generator=generator).to(x) / model.width**0.5
        values = (x @ encoder.T)[1:].flatten().sort().values  # the first token has no features
        last = min(max(round(values.numel() * (1 - active / features)), 1), values.numel() - 1)
        cut = (values[last - 1] + values[last]) / 2  # between two, so that rounding decides nothing
        layers.append(Transcoder(encoder, (-cut).expand(features).clone(), decoder, torch.zeros_like(decoder[0])))
    return TranscoderSet("random", "unknown", "unknown", "random", "mlp.hook_in", "hook_mlp_out", layers)


def once(size: Size, repeat: int) -> dict[str, float]:
    model, parts, ids = build(size)
    quiet = {"warn": lambda text: None}
    attribute(model, parts, ids[:3], **quiet)
    rows = []
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        graph = attribute(model, parts, ids, **quiet)
        rows.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu, wall = np.median(rows, axis=0)
    counts = {"edges": float(graph.matrix.nnz), "nodes": float(graph.order.size)}
    return {"cpu_s": float(cpu), "wall_s": float(wall), "multiply_adds": float(spent(model, parts, ids))} | counts


def measure(base: Size = Size(), doublings: int = 2, repeat: int = 3) -> dict:
    """{what is doubled: {"sizes": [...], "rows": [...], "exponents": {cost: slope}}} and the base under "base"."""
    found: dict = {"base": asdict(base)}
    first = once(base, repeat)
    for name in asdict(base):
        sizes = [getattr(base, name) * 2**i for i in range(doublings + 1)]
        rows = [first, *(once(replace(base, **{name: size}), repeat) for size in sizes[1:])]
        slopes = {cost: float(np.polyfit(np.log(sizes), np.log([row[cost] for row in rows]), 1)[0]) for cost in COSTS}
        found[name] = {"sizes": sizes, "rows": rows, "exponents": slopes}
    return found


def table(found: dict) -> Table:
    made = Table(title="Doubled one at a time, from " + ", ".join(f"{n} {v}" for n, v in found["base"].items()))
    for head in ("doubled", "sizes", "CPU s", "exponent of CPU s", "of wall", "of multiply-adds", "of edges"):
        made.add_column(head, justify="left" if head == "doubled" else "right")
    for name, row in found.items():
        if name != "base":
            seconds = " ".join(f"{one['cpu_s']:.2f}" for one in row["rows"])
            slopes = [f"{row['exponents'][cost]:.2f}" for cost in COSTS]
            made.add_row(name, " ".join(map(str, row["sizes"])), seconds, *slopes)
    return made
