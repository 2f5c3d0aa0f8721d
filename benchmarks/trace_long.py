"""Long prompts: one trace in a process of its own, its seconds and its peak memory above the model's own.

    python -m benchmarks.trace_long --random smollm2-135m --tokens 256
    python -m benchmarks.trace_long --random smollm2-135m --tokens 1000 --max-features 2000
    python -m benchmarks.trace_long --random small --tokens 48 --both

Random models and transcoders as of `benchmarks.trace` (`small`: 8 layers, 256 wide, 1024 features per layer of which about 8 are active), at the
usual thresholds, up to the circuit with its opened edges. Whether the full graph is held is decided by the free memory, as for any
trace; `--streamed` and `--whole` decide it, and `--both` runs one after the other and compares their circuits. Peak memory is
the largest resident set during the trace, less that of the process with model and set loaded and a short prompt traced. Prints a table,
progress on stderr, and adds the case to benchmarks/results/trace-long.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table

from atlas.circuit import Circuit, CircuitRecord, Example, Method
from atlas.circuit_file import from_bytes, to_bytes
from benchmarks.oracle.side import forget_peak, memory, release
from benchmarks.trace import RESULTS, keep, random_ids, random_model, random_transcoders
from benchmarks.trace_scaling import Size, build
from ingest.models import Model
from ingest.trace import trace_circuit
from ingest.trace.attribute import prepare
from ingest.trace.memory import must_stream, total_edges
from ingest.transcoders import TranscoderSet

SMALL = Size()
TOLD_EVERY_S = 60.0
WAYS = {"auto": None, "streamed": True, "whole": False}


def case(name: str, tokens: int) -> tuple[Model, TranscoderSet, list[int]]:
    if name == "small":
        return build(Size(**{**vars(SMALL), "tokens": tokens}))
    model, ids = random_model(), random_ids(tokens)
    return model, random_transcoders(model, ids), ids


def asked(ids: list[int], max_features: int | None) -> CircuitRecord:
    """The question, at the usual settings; the random model has no tokenizer."""
    parameters = {"max_logits": 10, "logit_mass": 0.95, "max_features": max_features}
    return CircuitRecord(
        name="random",
        examples=[Example(tokens=[str(i) for i in ids], token_ids=ids)],
        method=Method(parameters=parameters),
        thresholds={"node": 0.8, "edge": 0.98},
    )


def measure(name: str, tokens: int, max_features: int | None, way: str, file: Path) -> dict[str, Any]:
    """One trace in this process; the circuit is written to `file`."""
    model, parts, ids = case(name, tokens)
    quiet: dict[str, Any] = {"actor": "benchmark", "warn": lambda text: None}
    trace_circuit(model, parts, asked(ids[:4], None), **quiet)
    release()
    forget_peak()
    base = memory("VmRSS")
    told = began = time.perf_counter()
    cpu = time.process_time()

    def progress(done: int, total: int, what: str) -> None:
        nonlocal told
        if time.perf_counter() > told + TOLD_EVERY_S:
            told = time.perf_counter()
            print(f"{done:,} of {total:,} {what} after {told - began:.0f} s", file=sys.stderr, flush=True)

    circuit = trace_circuit(model, parts, asked(ids, max_features), stream=WAYS[way], progress=progress, **quiet)
    found: dict[str, Any] = {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
    found |= {"peak_above_mib": memory("VmHWM") - base, "model_mib": base}
    file.write_bytes(to_bytes(circuit))
    ready = prepare(model, parts, ids, None, None, 10, 0.95)
    scores = circuit.record.scores.model_dump(exclude={"claimed"})
    return found | {
        "tokens": tokens,
        "active_features": ready.order.n_features,
        "nodes": ready.order.size,
        "edges": total_edges(ready, ready.inputs_at_most, None),
        "kept_nodes": len(circuit.nodes),
        "kept_edges": len(circuit.edges),
        "streamed": must_stream(ready, max_features=max_features, stream=WAYS[way]),
        "scores": scores,
    }


def apart(name: str, tokens: int, max_features: int | None, way: str, file: Path) -> dict[str, Any]:
    """`measure` in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.trace_long",
        "--random",
        name,
        "--tokens",
        str(tokens),
        "--one",
        str(file),
    ]
    command += ["--max-features", str(max_features)] if max_features else []
    command += [f"--{way}"] if way != "auto" else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    try:
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {"failed": f"exit {done.returncode}"}  # its reason is on stderr
    return found


def differences(whole: Circuit, streamed: Circuit) -> dict[str, Any]:
    """How far two circuits of one question are apart."""
    pairs = [
        {(c.keys[s], c.keys[t]): w for s, t, w in zip(c.edges.source, c.edges.target, c.edges.weight, strict=True)}
        for c in (whole, streamed)
    ]
    both = pairs[0].keys() & pairs[1].keys()
    weights = np.array([[pair[edge] for edge in both] for pair in pairs], np.float64)
    numbers = [c.record.scores.model_dump(exclude={"claimed", "computed_on"}) for c in (whole, streamed)]
    off = [abs(numbers[1][key] - value) / abs(value) for key, value in numbers[0].items() if value]
    return {
        "nodes_in_one_only": len(set(whole.keys) ^ set(streamed.keys)),
        "edges_in_one_only": len(pairs[0].keys() ^ pairs[1].keys()),
        "weights_relative": float(np.linalg.norm(weights[0] - weights[1]) / np.linalg.norm(weights[0])),
        "scores_relative": max(off),
    }


def table(rows: dict[str, dict[str, Any]]) -> Table:
    made = Table(title="Long prompts; memory above that of the process with model and set loaded")
    heads = ["case", "nodes", "edges at most", "wall s", "CPU s", "peak MiB", "model MiB", "kept nodes", "kept edges"]
    for head in heads:
        made.add_column(head, justify="left" if head == "case" else "right")
    for title, row in rows.items():
        if "failed" in row:
            made.add_row(title, row["failed"])
            continue
        keys = ("wall_s", "cpu_s", "peak_above_mib", "model_mib", "kept_nodes", "kept_edges")
        cells = [f"{row[key]:,.0f}" for key in ("nodes", "edges", *keys)]
        made.add_row(title, *cells)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", choices=["smollm2-135m", "small"], default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--max-features", type=int)
    way = parser.add_mutually_exclusive_group()
    for name in ("streamed", "whole", "both"):
        way.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where trace-long.json is kept")
    given = parser.parse_args()
    one = next((name for name in ("streamed", "whole") if getattr(given, name)), "auto")
    if given.one:
        print(json.dumps(measure(given.random, given.tokens, given.max_features, one, given.one)))
        return 0
    title = f"{given.random}, {given.tokens} tokens" + (
        f", at most {given.max_features} features" if given.max_features else ""
    )
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        circuits = []
        for name in ("whole", "streamed") if given.both else (one,):
            file = Path(place) / name
            row = apart(given.random, given.tokens, given.max_features, name, file)
            rows[f"{title}, {'streamed' if row.get('streamed', name == 'streamed') else 'whole'}"] = row
            circuits += [from_bytes(file.read_bytes())] if given.both and file.exists() else []
        if len(circuits) == 2:
            row["differences"] = differences(*circuits)
    console = Console(width=None if sys.stdout.isatty() else 170)
    console.print(table(rows))
    if "differences" in row:
        console.print(", ".join(f"{name.replace('_', ' ')} {value:.1e}" for name, value in row["differences"].items()))
    setting = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }
    kept = given.results / "trace-long.json"
    old = json.loads(kept.read_text()) if kept.exists() else {}
    fresh = {name: row | {"setting": setting} for name, row in rows.items()}
    keep("trace-long", old | fresh, given.results)
    return 1 if any("failed" in row for row in rows.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
