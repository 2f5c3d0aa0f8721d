"""Transcoders for a real language model: one per layer of SmolLM2-135M-Instruct, trained here on text that the model writes itself.

    python scripts/smollm2.py                        # once: puts the model into .cache/smollm2
    python -m benchmarks.smollm2_set [--tokens 100000] [--features 2048] [--l0 32] [--steps 400]

Small and briefly trained, so worse than published sets: enough to measure on (`benchmarks.verdict --smollm2`), not to explain the model
with. No text is fetched: the model samples its own, at temperature 1. Makes .cache/smollm2-transcoders; a layer that is there already
is kept, so a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from benchmarks.smollm2 import CACHE
from ingest.organism.train_transcoders import train_layer
from ingest.organism.transcoder import CONFIG_YAML, Transcoder, collect_batches, measure

SET = CACHE.with_name("smollm2-transcoders")
LENGTH = 128  # tokens of a text
HELD_OUT = 64  # texts: the first ones
END_OF_TEXT = 0  # what the model's training texts began with
FIRST = 1  # what a traced prompt begins with (`ingest.trace.prompt`)
CONSOLE = Console(width=120)


def written(model, count: int, seed: int, batch: int = 128) -> torch.Tensor:
    """(count, LENGTH) ids of texts the model samples, behind the token that a traced prompt begins with."""
    torch.manual_seed(seed)
    texts = []
    for start in range(0, count, batch):
        began = time.monotonic()
        first = torch.full((min(batch, count - start), 1), END_OF_TEXT)
        texts.append(
            model.generate(
                first,
                attention_mask=torch.ones_like(first),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                min_new_tokens=LENGTH - 1,
                max_new_tokens=LENGTH - 1,
            )
        )
        CONSOLE.print(f"{start + len(first)} of {count} texts, {time.monotonic() - began:.0f} s")
    ids = torch.cat(texts)
    ids[:, 0] = FIRST
    return ids


def kept(model, ids: torch.Tensor, folder: Path, size: int = 32) -> None:
    """What every MLP gets and returns, by layer in files of float16: all of it would not fit into a laptop's memory."""
    folder.mkdir()
    for rows in ids.split(size):
        found = collect_batches(model, [(rows, torch.ones_like(rows))], torch.float16)
        for name, layers in zip(("in", "out"), found, strict=True):
            for layer, values in enumerate(layers):
                with (folder / f"{name}_{layer}").open("ab") as file:
                    values.numpy().tofile(file)


def read(folder: Path, layer: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(n_tokens, d) each, what a layer's MLP gets and returns."""
    found = (np.fromfile(folder / f"{name}_{layer}", np.float16).reshape(-1, width) for name in ("in", "out"))
    inputs, outputs = (torch.from_numpy(values).float() for values in found)
    return inputs, outputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--l0", type=float, default=32)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--into", type=Path, default=SET)
    options = parser.parse_args()
    options.into.mkdir(parents=True, exist_ok=True)
    model = AutoModelForCausalLM.from_pretrained(CACHE, dtype=torch.float32).eval()
    file = options.into / "texts.pt"
    if not file.exists():
        torch.save(written(model, HELD_OUT + options.tokens // LENGTH, seed=0), file)
    ids = torch.load(file, weights_only=True)
    (options.into / "config.yaml").write_text(CONFIG_YAML.format(model="smollm2", set="smollm2-own-text"))
    width, figures = model.config.hidden_size, []
    with tempfile.TemporaryDirectory(dir=options.into) as scratch:
        held_out, training = Path(scratch) / "held-out", Path(scratch) / "training"
        kept(model, ids[:HELD_OUT], held_out)
        kept(model, ids[HELD_OUT : HELD_OUT + options.tokens // LENGTH], training)
        for layer in range(model.config.num_hidden_layers):
            began, path = time.monotonic(), options.into / f"layer_{layer}.safetensors"
            if not path.exists():
                made = train_layer(*read(training, layer, width), layer, options.l0, options.features, options.steps)
                made.save(path)
            found = measure(Transcoder.load(path), *read(held_out, layer, width))
            figures.append(found)
            CONSOLE.print(
                f"layer {layer}: unexplained {found['unexplained_variance']:.3f}, L0 {found['l0']:.1f}, dead "
                f"{found['dead_features']} of {found['features']}, {time.monotonic() - began:.0f} s"
            )
    (options.into / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
