"""One engine on one prompt in a process of its own: seconds, CPU-seconds, peak memory above the model's own, and the graph.

    PYTHON side.py ours|reference MODEL SET --ids 1,5,9 --repeat 3 [--batch 64] [--graph FOLDER] [--against FOLDER]
                   [--flops] [--memory-gib N]

`ours` runs in this project's environment, `reference` in the other one. Both load everything into memory first and trace the
prompt's first tokens, which is not counted: the peak is that of `attribute` above what was resident then. --graph stores the
reference's graph, --against compares ours with it. Prints one line of JSON; an engine that fails prints {"failed": sentence}.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def memory(field: str) -> float:
    """MiB: VmRSS is now, VmHWM the most since `forget_peak`."""
    return next(int(line.split()[1]) / 1024 for line in STATUS.read_text().splitlines() if line.startswith(field))


def release() -> None:
    """Give what loading left behind back to the system, else it would hide what a trace takes."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def forget_peak() -> None:
    CLEAR.write_text("5")


class Ours:
    def __init__(self, model: Path, parts: Path, batch: int | None) -> None:
        from atlas.memory import LARGE_WHEN_TRACING, limit_fragmentation
        from ingest.models import load_model
        from ingest.trace import attribute, prune
        from ingest.transcoders import load_transcoders

        limit_fragmentation(LARGE_WHEN_TRACING)  # as `atlas trace` and workers do
        self.attribute, self.cut = attribute, prune
        self.model = load_model(model, device="cpu")
        self.parts = load_transcoders(parts, self.model)
        # mapped files: read once, as the reference's set is, so that they count as the set's own
        for layer in self.parts.layers:
            layer.w_enc.sum(), layer.w_dec.sum()
        self.batch = batch

    def run(self, ids: list[int]) -> Any:
        return self.attribute(self.model, self.parts, ids, batch_size=self.batch)

    def describe(self, graph: Any) -> dict[str, int]:
        return {"nodes": graph.order.size, "features": graph.order.n_features, "edges": int(graph.matrix.nnz)}

    def prune(self, graph: Any) -> None:
        self.cut(graph, 0.8, 0.98)


class Reference:
    def __init__(self, model: Path, parts: Path, batch: int | None) -> None:
        from circuit_tracer import attribute
        from circuit_tracer.graph import prune_graph
        from run_reference import load_parts, load_replacement

        self.attribute, self.cut = attribute, prune_graph
        self.model, _ = load_replacement(model, load_parts(parts, lazy=False))
        self.batch = batch or 64

    def run(self, ids: list[int]) -> Any:
        options = {"max_n_logits": 10, "desired_logit_prob": 0.95, "batch_size": self.batch}
        return self.attribute(torch.tensor(ids), self.model, **options)

    def describe(self, graph: Any) -> dict[str, int]:
        size = len(graph.adjacency_matrix)
        edges = int(torch.count_nonzero(graph.adjacency_matrix))
        return {"nodes": size, "features": len(graph.selected_features), "edges": edges}

    def prune(self, graph: Any) -> None:
        self.cut(graph, 0.8, 0.98)


def save(graph: Any, file: Path) -> None:
    """The reference's graph, uncompressed, so that its matrix can be read in parts."""
    file.mkdir(parents=True, exist_ok=True)
    np.save(file / "matrix.npy", graph.adjacency_matrix.numpy())
    np.save(file / "features.npy", graph.active_features.numpy())
    np.save(file / "logits.npy", graph.logit_token_ids.numpy())


def differences(graph: Any, folder: Path) -> dict[str, float | bool]:
    """Of ours from the stored one, row by row."""
    same = np.array_equal(graph.features, np.load(folder / "features.npy"))
    same = same and graph.logit_token_ids.tolist() == np.load(folder / "logits.npy").tolist()
    if not same:
        return {"same_nodes": False}
    matrix = np.load(folder / "matrix.npy", mmap_mode="r")
    off = total = worst = 0.0
    for start in range(0, len(matrix), 256):
        theirs = np.asarray(matrix[start : start + 256], np.float32)
        gap = np.abs(graph.matrix[start : start + 256].toarray() - theirs)
        off += float(np.square(gap, dtype=np.float64).sum())
        total += float(np.square(theirs, dtype=np.float64).sum())
        largest = np.abs(theirs).max(axis=1)
        worst = max(worst, float((gap.max(axis=1)[largest > 0] / largest[largest > 0]).max(initial=0)))
    return {"same_nodes": True, "relative": (off / total) ** 0.5, "worst_row": worst}


def measure(engine: Ours | Reference, ids: list[int], asked: argparse.Namespace) -> dict[str, Any]:
    engine.run(ids[:3])
    release()
    rows, graph, resident = [], None, memory("VmRSS")
    for _ in range(asked.repeat):
        graph = None
        release()
        forget_peak()
        before, wall, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
        graph = engine.run(ids)
        spent = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        peak = memory("VmHWM")  # the second figure leaves out what libraries keep from one run to the next
        rows.append(spent | {"peak_above_mib": peak - resident, "peak_above_before_mib": peak - before})
    found: dict[str, Any] = {"runs": rows, "resident_mib": resident} | engine.describe(graph)
    if not asked.no_prune:
        before = memory("VmRSS")
        forget_peak()
        wall = time.perf_counter()
        engine.prune(graph)
        found |= {"prune_s": time.perf_counter() - wall, "prune_peak_above_mib": memory("VmHWM") - before}
    if asked.graph:
        save(graph, asked.graph)
    if asked.against and (asked.against / "matrix.npy").exists():
        found["differences"] = differences(graph, asked.against)
    if asked.flops:
        from torch.utils.flop_counter import FlopCounterMode

        before = torch.get_num_threads()
        torch.set_num_threads(1)  # the counter sees the thread that it was entered in
        with FlopCounterMode(display=False) as counter:
            engine.run(ids)
        torch.set_num_threads(before)
        found["multiply_adds"] = counter.get_total_flops() // 2  # forward passes too
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=["ours", "reference"])
    parser.add_argument("model", type=Path)
    parser.add_argument("parts", type=Path)
    parser.add_argument("--ids", required=True)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--graph", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--flops", action="store_true")
    parser.add_argument("--no-prune", action="store_true")
    parser.add_argument("--memory-gib", type=float, help="fail rather than take more")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    if asked.memory_gib:
        most = int(asked.memory_gib * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    out, sys.stdout = sys.stdout, sys.stderr  # libraries print
    found: dict[str, Any]
    try:
        engine = (Ours if asked.engine == "ours" else Reference)(asked.model, asked.parts, asked.batch)
        found = measure(engine, [int(i) for i in asked.ids.split(",")], asked)
    except Exception as error:  # whatever makes it fail is the finding
        found = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    print(json.dumps(found | {"threads": torch.get_num_threads(), "torch": torch.__version__}), file=out, flush=True)
    os._exit(0)  # freeing gigabytes takes seconds and tells nothing


if __name__ == "__main__":
    raise SystemExit(main())
