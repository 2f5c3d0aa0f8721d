"""Side by side with circuit-tracer, each run in a process of its own, one after the other (benchmarks/oracle/side.py)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.table import Table
from safetensors.torch import save_file

from benchmarks.oracle.make_sets import write_tokenizer
from ingest.models import Model
from ingest.transcoders import TranscoderSet

SIDE = Path(__file__).parent / "oracle" / "side.py"
COMPARED_NODES = 16_000  # a reference graph of more nodes is not stored: its dense matrix is over a gigabyte


def write_pair(model: Model, parts: TranscoderSet, folder: Path) -> tuple[Path, Path]:
    """Folders of a model and a per-layer set in memory that both engines load, float32."""
    place, sets = folder / "model", folder / "set"
    place.mkdir()
    sets.mkdir()
    network = model.network
    config = network.config.to_dict()
    old_names = {"rope_theta": 10000.0, "torch_dtype": "float32", "architectures": [type(network).__name__]}
    config = {key: value for key, value in config.items() if key not in ("rope_parameters", "dtype")} | old_names
    (place / "config.json").write_text(json.dumps(config, indent=1))
    save_file(dict(network.named_parameters()), place / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(place, model.vocabulary)
    for i, layer in enumerate(parts.layers):
        tensors = {"W_enc": layer.w_enc, "b_enc": layer.b_enc, "W_dec": layer.w_dec, "b_dec": layer.b_dec}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, sets / f"layer_{i}.safetensors")
    table = {"model_name": "random", "scan": "random", "model_kind": "transcoder_set"}
    hooks = {"feature_input_hook": parts.input_hook, "feature_output_hook": parts.output_hook}
    (sets / "config.yaml").write_text(yaml.safe_dump(table | hooks))
    return place, sets


def compare(
    python: str, model: Path, parts: Path, ids: list[int], nodes: int, asked: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Both engines on one prompt. nodes: how many the graph will have. asked: repeat, batch, limit_s, memory_gib, flops."""
    with tempfile.TemporaryDirectory() as place:
        graph = Path(place) / "graph"
        common = [str(model), str(parts), "--ids", ",".join(map(str, ids)), "--repeat", str(asked["repeat"])]
        common += ["--threads", str(torch.get_num_threads())]
        common += ["--memory-gib", str(asked["memory_gib"])] if asked["memory_gib"] else []
        common += ["--flops"] if asked["flops"] else []
        stored = nodes <= COMPARED_NODES and 6 * nodes**2 < shutil.disk_usage(place).free
        keep = ["--graph", str(graph)] if stored else []
        batch = ["--batch", str(asked["batch"])]
        theirs = _run([python, str(SIDE), "reference", *common, *batch, *keep], asked["limit_s"])
        ours = _run([sys.executable, str(SIDE), "ours", *common, "--against", str(graph)], asked["limit_s"])
    return {"reference": theirs, "ours": ours}


def _run(command: list[str], limit_s: float) -> dict[str, Any]:
    root = str(SIDE.parent.parent.parent)
    environment = os.environ | {"PYTHONPATH": root, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, env=environment)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {limit_s:.0f} s"}
    try:
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        reason = f"killed by signal {-done.returncode}" if done.returncode < 0 else done.stderr.strip()[-300:]
        return {"failed": reason}
    if "runs" in found:
        for name in ("wall_s", "cpu_s"):
            values = sorted(run[name] for run in found["runs"])
            found[name], found[f"{name}_spread"] = values[len(values) // 2], values[-1] - values[0]
        found["peak_above_mib"] = max(run["peak_above_mib"] for run in found["runs"])
    return found


def table(rows: dict[str, dict[str, dict[str, Any]]], threads: int) -> Table:
    made = Table(
        title=f"Side by side with circuit-tracer, CPU, {threads} threads; memory above the loaded model's and set's own"
    )
    heads = [
        "prompt",
        "engine",
        "nodes",
        "wall s",
        "CPU s",
        "spread",
        "peak MiB above",
        "prune s",
        "multiply-adds",
        "difference",
    ]
    for head in heads:
        made.add_column(head, justify="left" if head in ("prompt", "engine") else "right")
    for prompt, both in rows.items():
        for engine, row in both.items():
            if "failed" in row:
                made.add_row(prompt, engine, row["failed"])
                continue
            against = row.get("differences", {})
            off = (
                "nodes differ"
                if against.get("same_nodes") is False
                else f"{against['relative']:.1e}"
                if against
                else ""
            )
            cells = [f"{row[key]:,.2f}" for key in ("wall_s", "cpu_s", "cpu_s_spread", "peak_above_mib", "prune_s")]
            count = f"{row['multiply_adds']:.2e}" if "multiply_adds" in row else ""
            made.add_row(prompt, engine, f"{row['nodes']:,}", *cells, count, off)
        if all("failed" not in row for row in both.values()):
            ours, theirs = both["ours"], both["reference"]
            ratio = [theirs[key] / max(ours[key], 1e-9) for key in ("wall_s", "cpu_s", "peak_above_mib", "prune_s")]
            made.add_row(
                "", "ratio", "", f"{ratio[0]:.1f}", f"{ratio[1]:.1f}", "", f"{ratio[2]:.1f}", f"{ratio[3]:.1f}"
            )
    return made
