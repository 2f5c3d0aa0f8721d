"""A transcoder set larger than memory: what one trace with it takes.

    python -m benchmarks.trace_large_set [--features 131072] [--folder FOLDER] [--keep]

Writes a random per-layer set for a random model of SmolLM2-135M's sizes, float32 (131,072 features a layer: 18 GB), into FOLDER (default: a
temporary one), loads it as any set and traces 11 tokens. Every layer has the same random rows, turned by its number, and biases that let
about 1 in 8,000 features through. Prints memory of the process that is its own (anonymous, peak, watched every 10 ms) and what of
the set's files was mapped at the end (the system takes it back when it is needed), bytes read from disk, and seconds; stores
benchmarks/results/trace-large-set.json. Run it in a control group to see that it does with less memory than the set.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from benchmarks.oracle.side import memory
from benchmarks.trace import SMOLLM2, keep, random_ids, random_model
from ingest.trace import attribute
from ingest.transcoders import load_transcoders

HOOKS = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "mlp.hook_out"}
FIRING = 1 / 8192


def write_set(folder: Path, features: int) -> None:
    layers, width = SMOLLM2["num_hidden_layers"], SMOLLM2["hidden_size"]
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(features, width, generator=generator) / width**0.5
    bias = torch.full((features,), -float(torch.special.ndtri(torch.tensor(1 - FIRING, dtype=torch.float64))))
    for layer in range(layers):
        turned = rows.roll(layer, dims=1)
        tensors = {"W_enc": turned, "b_enc": bias, "W_dec": turned / 4, "b_dec": torch.zeros(width)}
        save_file(tensors, folder / f"layer_{layer}.safetensors")
    table = {"model_name": "random", "scan": "random", "model_kind": "transcoder_set"}
    (folder / "config.yaml").write_text(yaml.safe_dump(table | HOOKS))


def read_from_disk() -> float:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["read_bytes"]) / 2**30


class Watch:
    """The most anonymous memory of this process while it runs."""

    def __enter__(self) -> Watch:
        self.peak, self.over = 0.0, threading.Event()
        self.thread = threading.Thread(target=self._look)
        self.thread.start()
        return self

    def _look(self) -> None:
        while not self.over.wait(0.01):
            self.peak = max(self.peak, memory("RssAnon"))

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()


def measure(folder: Path) -> dict[str, Any]:
    model, ids = random_model(), random_ids(11)
    parts = load_transcoders(folder, model)
    disk, before = read_from_disk(), memory("RssAnon")
    wall, cpu = time.perf_counter(), time.process_time()
    with Watch() as watch:
        graph = attribute(model, parts, ids, warn=lambda text: None)
    return {
        "set_gib": sum(file.stat().st_size for file in folder.iterdir()) / 2**30,
        "features": graph.order.n_features,
        "edges": int(graph.matrix.nnz),
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "own_before_mib": before,
        "own_peak_mib": watch.peak,
        "mapped_mib": memory("RssFile"),
        "read_gib": read_from_disk() - disk,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=131_072)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--keep", action="store_true", help="leave the set in --folder")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = asked.folder or Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "config.yaml").exists():
            write_set(folder, asked.features)
        found = measure(folder)
        if asked.folder and not asked.keep:
            for file in folder.iterdir():
                file.unlink()
    made = Table(title="One trace of 11 tokens with a set that stays in its files")
    for name in found:
        made.add_column(name.replace("_", " "), justify="right")
    made.add_row(*(f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" for value in found.values()))
    Console(width=170).print(made)
    keep("trace-large-set", {"features": asked.features} | found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
